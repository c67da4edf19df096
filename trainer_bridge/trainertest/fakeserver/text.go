package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Controls are the control tokens of the fake tokenizer, by id. Each of the
// other ids is one byte.
var Controls = [...]string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}

// Tokenize is the fake tokenizer. Control tokens in text become their ids only
// if special is set.
func Tokenize(text string, special bool) []int32 {
	ids := []int32{}
	for len(text) > 0 {
		i := slices.IndexFunc(Controls[:], func(c string) bool { return strings.HasPrefix(text, c) })
		if special && i >= 0 {
			ids = append(ids, int32(i))
			text = text[len(Controls[i]):]
			continue
		}
		ids = append(ids, int32(len(Controls))+int32(text[0]))
		text = text[1:]
	}
	return ids
}

// text executes an operation of the tokenizer.
func (s *Server) text(c Call) (int, any) {
	var ask struct {
		Text     string  `json:"text"`
		Special  bool    `json:"special"`
		Tokens   []int32 `json:"tokens"`
		Messages []struct {
			Role    string `json:"role"`
			Content string `json:"content"`
		} `json:"messages"`
		Generation bool            `json:"add_generation_prompt"`
		Args       json.RawMessage `json:"template_args"`
	}
	if err := json.Unmarshal(c.Body, &ask); err != nil {
		return http.StatusBadRequest, detail(err.Error())
	}
	var b strings.Builder
	switch c.Op {
	case "tokenize":
		return 200, map[string]any{"tokens": Tokenize(ask.Text, ask.Special)}
	case "control_token":
		if i := slices.Index(Controls[:], ask.Text); i >= 0 {
			return 200, map[string]any{"token": i}
		}
		return http.StatusBadRequest, detail(fmt.Sprintf("%q is not a control token", ask.Text))
	case "detokenize":
		for _, id := range ask.Tokens {
			switch n := int32(len(Controls)); {
			case id < 0 || id >= n+256:
				return http.StatusBadRequest, detail(fmt.Sprintf("no token %d", id))
			case id < n:
				b.WriteString(Controls[id])
			default:
				b.WriteByte(byte(id - n))
			}
		}
	case "render":
		for _, m := range ask.Messages {
			fmt.Fprintf(&b, "<|im_start|>%s\n%s<|im_end|>\n", m.Role, m.Content)
		}
		if ask.Generation {
			b.WriteString("<|im_start|>assistant\n")
		}
		if len(ask.Args) > 0 {
			fmt.Fprintf(&b, "<!-- %s -->", ask.Args)
		}
	}
	return 200, map[string]any{"text": b.String()}
}
