package samplertest

import (
	"context"
	"strings"
)

// EncodeSpecial is Encode where control tokens written in text become their
// ids, as in a server that is given a prompt as text.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	ids := []int32{}
	for {
		at, which := -1, 0
		for i, c := range controls {
			if j := strings.Index(text, c); j >= 0 && (at < 0 || j < at) {
				at, which = j, i
			}
		}
		if at < 0 {
			return append(ids, t.Encode(text)...)
		}
		ids = append(ids, t.Encode(text[:at])...)
		ids = append(ids, int32(which))
		text = text[at+len(controls[which]):]
	}
}

// TokenizeSpecial is EncodeSpecial with ceremony.
func (t *Tokenizer) TokenizeSpecial(_ context.Context, text string) ([]int32, error) {
	return t.EncodeSpecial(text), nil
}

// Detokenize is Decode with ceremony.
func (t *Tokenizer) Detokenize(_ context.Context, ids []int32) (string, error) {
	return t.Decode(ids), nil
}

// render writes messages in ChatML and opens the answer, as a server's own
// template.
func (p Policy) render(messages []ChatMessage) []int32 {
	var ids []int32
	for _, m := range messages {
		ids = append(append(append(ids, Start), p.Tokenizer.Encode(m.Role+"\n"+m.Text)...), End)
		ids = append(ids, p.Tokenizer.Encode("\n")...)
	}
	return append(ids, p.opening()...)
}
