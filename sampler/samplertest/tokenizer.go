// Package samplertest holds what tests of samplers and of everything above
// them need: a conformance suite that every Backend runs ([Run]), a policy
// that is a Go function ([Script]) behind an in-process Backend ([Scripted]) or
// behind the HTTP of a llama-server ([fakeserver.Llama]).
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

// chatML are the control tokens that every tokenizer has.
var chatML = []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"}

// Tokenizer maps every byte to a token, and each of its words to a token of
// its own where the longest word matches first. With words such as " jade" or
// ":\n" it merges across the boundaries of a text's parts as BPE does. It has
// the control tokens of ChatML and those that are added, which no text can
// produce.
type Tokenizer struct {
	words []string
	ids   map[string]int32
	max   int      // bytes of the longest word
	more  []string // control tokens besides ChatML's, behind the words
	end   int32
}

// NewTokenizer makes a tokenizer with the words, in the order of their ids.
func NewTokenizer(words ...string) *Tokenizer {
	t := &Tokenizer{words: words, ids: map[string]int32{}, end: End}
	for i, w := range words {
		t.ids[w] = firstWord + int32(i)
		t.max = max(t.max, len(w))
	}
	return t
}

// WithControls is t with further control tokens. What a scripted policy writes
// ends with the one called end.
func (t *Tokenizer) WithControls(end string, controls ...string) *Tokenizer {
	more := *t
	more.more = slices.Concat(t.more, controls)
	id, err := more.ControlToken(context.Background(), end)
	if err != nil {
		panic(err) // end is to be one of the controls
	}
	more.end = id
	return &more
}

// EndOfTurn is the control token that ends what a scripted policy writes.
func (t *Tokenizer) EndOfTurn() int32 { return t.end }

// VocabSize is one more than the largest id.
func (t *Tokenizer) VocabSize() int { return int(firstWord) + len(t.words) + len(t.more) }

// Tokenize never fails.
func (t *Tokenizer) Tokenize(_ context.Context, text string) ([]int32, error) {
	return t.Encode(text), nil
}

// Encode is Tokenize without ceremony.
func (t *Tokenizer) Encode(text string) []int32 {
	var ids []int32
	for len(text) > 0 {
		id, n := FirstByte+int32(text[0]), 1
		for l := min(t.max, len(text)); l > 1; l-- {
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

// Decode writes control tokens as <|…|>.
func (t *Tokenizer) Decode(ids []int32) string {
	var b strings.Builder
	for _, id := range ids {
		b.WriteString(t.Piece(id))
	}
	return b.String()
}

// Piece is the text of one token.
func (t *Tokenizer) Piece(id int32) string {
	switch {
	case id >= 0 && id < FirstByte:
		return chatML[id]
	case id >= FirstByte && id < firstWord:
		return string([]byte{byte(id - FirstByte)})
	case id >= firstWord && int(id-firstWord) < len(t.words):
		return t.words[id-firstWord]
	case id >= firstWord && int(id) < t.VocabSize():
		return t.more[int(id-firstWord)-len(t.words)]
	default:
		return fmt.Sprintf("<|%d|>", id)
	}
}

// ControlToken knows the control tokens of ChatML and those added.
func (t *Tokenizer) ControlToken(_ context.Context, text string) (int32, error) {
	if i := slices.Index(chatML, text); i >= 0 {
		return int32(i), nil
	}
	if i := slices.Index(t.more, text); i >= 0 {
		return firstWord + int32(len(t.words)+i), nil
	}
	return 0, fmt.Errorf("the model has no control token %s", text)
}

// TokenizeSpecial never fails.
func (t *Tokenizer) TokenizeSpecial(_ context.Context, text string) ([]int32, error) {
	return t.EncodeSpecial(text), nil
}

// EncodeSpecial is Encode, but control tokens in text become their ids.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	var ids []int32
	for {
		at, which := len(text), ""
		for _, c := range slices.Concat(chatML, t.more) {
			if i := strings.Index(text, c); i >= 0 && i < at {
				at, which = i, c
			}
		}
		ids = append(ids, t.Encode(text[:at])...)
		if which == "" {
			return ids
		}
		id, _ := t.ControlToken(context.Background(), which)
		ids, text = append(ids, id), text[at+len(which):]
	}
}

// A ChatMessage is one message of a prompt as a Script reads it.
type ChatMessage struct{ Role, Text string }

// Messages parses ChatML by its control tokens. The last message is the
// opened one of the assistant, whatever it holds so far.
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

// LastUser is the text of the newest message of the user.
func (t *Tokenizer) LastUser(prompt []int32) string {
	messages := t.Messages(prompt)
	for _, m := range slices.Backward(messages) {
		if m.Role == "user" {
			return m.Text
		}
	}
	return ""
}

// Detokenize is Decode as an interface wants it.
func (t *Tokenizer) Detokenize(_ context.Context, ids []int32) (string, error) {
	return t.Decode(ids), nil
}
