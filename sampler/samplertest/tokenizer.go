package samplertest

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// The ids of the control tokens.
const (
	EndOfText int32 = iota
	Start           // <|im_start|>
	End             // <|im_end|>
	FirstByte       // of the 256 tokens of one byte each
)

const firstWord = FirstByte + 256

// chatML are the texts of the control tokens EndOfText, Start and End.
var chatML = []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}

// Tokenizer maps each of its words to a token, longest match first, and every other byte to a token. With words such as
// " jade" or ":\n" it merges across the boundaries of texts as BPE does. It has the control tokens of ChatML and of
// WithControls. Encode never returns a control token.
type Tokenizer struct {
	words         []string
	ids           map[string]int32
	maxWordBytes  int
	extraControls []string // control tokens besides ChatML's; their ids follow those of the words
	end           int32    // the control token that ends a completion
}

// NewTokenizer returns a tokenizer with these words. Their ids have the order of the words.
func NewTokenizer(words ...string) *Tokenizer {
	t := &Tokenizer{words: words, ids: map[string]int32{}, end: End}
	for i, w := range words {
		t.ids[w] = firstWord + int32(i)
		t.maxWordBytes = max(t.maxWordBytes, len(w))
	}
	return t
}

// WithControls returns a copy of t with more control tokens. The completions of scripted policies end with the control
// token end.
func (t *Tokenizer) WithControls(end string, controls ...string) *Tokenizer {
	extended := *t
	extended.extraControls = slices.Concat(t.extraControls, controls)
	id, err := extended.ControlToken(context.Background(), end)
	if err != nil {
		panic(err) // end must be one of the controls
	}
	extended.end = id
	return &extended
}

// EndOfTurn returns the control token that ends the completions of a scripted policy.
func (t *Tokenizer) EndOfTurn() int32 { return t.end }

// VocabSize returns the number of ids.
func (t *Tokenizer) VocabSize() int { return int(firstWord) + len(t.words) + len(t.extraControls) }

// Tokenize implements [chat.Tokenizer]. It never fails.
func (t *Tokenizer) Tokenize(_ context.Context, text string) ([]int32, error) {
	return t.Encode(text), nil
}

// Encode returns the ids of text. Control tokens in text are plain text.
func (t *Tokenizer) Encode(text string) []int32 {
	var ids []int32
	for len(text) > 0 {
		id, n := FirstByte+int32(text[0]), 1
		for l := min(t.maxWordBytes, len(text)); l > 1; l-- {
			if w, ok := t.ids[text[:l]]; ok {
				id, n = w, l
				break
			}
		}
		ids = append(ids, id)
		text = text[n:]
	}
	return ids
}

// Decode returns the text of ids. Control tokens become their text.
func (t *Tokenizer) Decode(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.Piece(id))
	}
	return b.String()
}

// Piece returns the text of one token.
func (t *Tokenizer) Piece(id int32) string {
	switch {
	case id >= 0 && id < FirstByte:
		return chatML[id]
	case id >= FirstByte && id < firstWord:
		return string([]byte{byte(id - FirstByte)})
	case id >= firstWord && int(id-firstWord) < len(t.words):
		return t.words[id-firstWord]
	case id >= firstWord && int(id) < t.VocabSize():
		return t.extraControls[int(id-firstWord)-len(t.words)]
	default:
		return fmt.Sprintf("<|%d|>", id)
	}
}

// ControlToken implements [chat.ControlTokens].
func (t *Tokenizer) ControlToken(_ context.Context, text string) (int32, error) {
	if i := slices.Index(chatML, text); i >= 0 {
		return int32(i), nil
	}
	if i := slices.Index(t.extraControls, text); i >= 0 {
		return firstWord + int32(len(t.words)+i), nil
	}
	return 0, fmt.Errorf("the model has no control token %s", text)
}

// TokenizeSpecial implements [chat.SpecialTokenizer]. It never fails.
func (t *Tokenizer) TokenizeSpecial(_ context.Context, text string) ([]int32, error) {
	return t.EncodeSpecial(text), nil
}

// EncodeSpecial returns the ids of text. Control tokens in text become their ids.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	var ids []int32
	for {
		at, control := len(text), ""
		for _, c := range slices.Concat(chatML, t.extraControls) {
			if i := strings.Index(text, c); i >= 0 && i < at {
				at, control = i, c
			}
		}
		ids = append(ids, t.Encode(text[:at])...)
		if control == "" {
			return ids
		}
		id, _ := t.ControlToken(context.Background(), control)
		ids, text = append(ids, id), text[at+len(control):]
	}
}

// A ChatMessage is one message of a prompt.
type ChatMessage struct{ Role, Text string }

// Messages parses a ChatML prompt. The last message is the assistant's, with the text so far.
func (t *Tokenizer) Messages(prompt []int32) []ChatMessage {
	var messages []ChatMessage
	for {
		i := slices.Index(prompt, Start)
		if i < 0 {
			return messages
		}
		prompt = prompt[i+1:]
		body := prompt
		if next := slices.Index(prompt, Start); next >= 0 {
			body = prompt[:next]
		}
		if end := slices.Index(body, End); end >= 0 {
			body = body[:end]
		}
		role, text, _ := strings.Cut(t.Decode(body), "\n")
		messages = append(messages, ChatMessage{role, text})
	}
}

// LastUser returns the text of the last user's message of a ChatML prompt.
func (t *Tokenizer) LastUser(prompt []int32) string {
	messages := t.Messages(prompt)
	for _, m := range slices.Backward(messages) {
		if m.Role == "user" {
			return m.Text
		}
	}
	return ""
}

// Detokenize implements [chat.Codec]. It never fails.
func (t *Tokenizer) Detokenize(_ context.Context, ids []int32) (string, error) {
	return t.Decode(ids), nil
}
