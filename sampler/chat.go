package sampler

import (
	"context"
	"fmt"
	"slices"
)

// ControlTokens resolves a control token by its text, for example
// "<|im_end|>", to the one id that the model knows it by. It is an error if
// the model has no such token.
type ControlTokens interface {
	ControlToken(ctx context.Context, text string) (int32, error)
}

// Template renders messages to token ids. Every message is tokenized as a
// unit, so that the ids of a conversation only grow: what was rendered once is
// never rendered again. It is immutable and safe for concurrent use.
//
// The form is ChatML:
//
//	<|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n
type Template struct {
	tokenizer  Tokenizer
	start, end int32
	newline    []int32 // between two messages
	assistant  []int32 // after start, where the policy begins to write
}

// NewChatML builds the ChatML template from the server's own tokenizer.
func NewChatML(ctx context.Context, tokenizer Tokenizer, control ControlTokens) (*Template, error) {
	t := &Template{tokenizer: tokenizer}
	var err error
	if t.start, err = control.ControlToken(ctx, "<|im_start|>"); err != nil {
		return nil, fmt.Errorf("chatml: %w", err)
	}
	if t.end, err = control.ControlToken(ctx, "<|im_end|>"); err != nil {
		return nil, fmt.Errorf("chatml: %w", err)
	}
	if t.newline, err = t.tokenize(ctx, "\n"); err != nil {
		return nil, err
	}
	if t.assistant, err = t.tokenize(ctx, RoleAssistant+"\n"); err != nil {
		return nil, err
	}
	return t, nil
}

// EOS is the token that ends what the policy writes.
func (t *Template) EOS() int32 { return t.end }

// Message renders one complete message and the line break after it.
func (t *Template) Message(ctx context.Context, m Message) ([]int32, error) {
	text, err := t.tokenize(ctx, m.Role+"\n"+m.Text())
	if err != nil {
		return nil, err
	}
	return slices.Concat([]int32{t.start}, text, []int32{t.end}, t.newline), nil
}

// Generation opens the message that the policy is to write.
func (t *Template) Generation() []int32 {
	return append([]int32{t.start}, t.assistant...)
}

// Glue is what stands between tokens that end with what the policy wrote and
// the next message: the end token, if the policy was cut off before it, and a
// line break. Nothing stands before the first message.
func (t *Template) Glue(tokens []int32) []int32 {
	switch {
	case len(tokens) == 0:
		return nil
	case tokens[len(tokens)-1] == t.end:
		return slices.Clone(t.newline)
	default:
		return append([]int32{t.end}, t.newline...)
	}
}

// Extend is everything between tokens and the next sampled id: the glue, the
// messages and the opened assistant message.
func (t *Template) Extend(ctx context.Context, tokens []int32, messages ...Message) ([]int32, error) {
	ext := t.Glue(tokens)
	for _, m := range messages {
		ids, err := t.Message(ctx, m)
		if err != nil {
			return nil, err
		}
		ext = append(ext, ids...)
	}
	return append(ext, t.Generation()...), nil
}

// tokenize refuses control tokens in what should be plain text: a tokenizer
// that parses them would let an observation or a tip forge a turn.
func (t *Template) tokenize(ctx context.Context, text string) ([]int32, error) {
	ids, err := t.tokenizer.Tokenize(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	if slices.Contains(ids, t.start) || slices.Contains(ids, t.end) {
		return nil, fmt.Errorf("tokenize %.40q: a control token in plain text; the tokenizer must not parse them", text)
	}
	return ids, nil
}
