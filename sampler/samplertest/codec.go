package samplertest

import (
	"context"
)

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
