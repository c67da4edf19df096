package chat

import (
	"context"
	"errors"
)

// A Tokenizer is the server's own. Control tokens written in text are
// tokenized as plain text, so that no observation and no tip can forge one.
type Tokenizer interface {
	Tokenize(ctx context.Context, text string) ([]int32, error)
}

// ControlTokens resolves a control token by its text, for example
// "<|im_end|>", to the one id that the model knows it by. It is an error if
// the model has no such token.
type ControlTokens interface {
	ControlToken(ctx context.Context, text string) (int32, error)
}

// A Codec is the model's own tokenizer in both directions. Backends whose
// server has none that can be trusted are given the trainer's.
type Codec interface {
	Tokenizer
	ControlTokens
	// Detokenize decodes ids, control tokens as their text.
	Detokenize(ctx context.Context, ids []int32) (string, error)
}

// A Renderer applies the model's own chat template, as the server (or the
// trainer) does: the whole conversation as text, control tokens as their text,
// and a beginning-of-text token if the server would put one there. The last
// message is the user's. With generation the text ends where the policy begins
// to write, without it after the last message. A conversation that the
// template does not take is [ErrRefused].
type Renderer interface {
	Render(ctx context.Context, messages []Message, generation bool) (string, error)
}

// ErrRefused is wrapped by a Renderer when the template itself refuses a
// conversation, for example because it knows no system.
var ErrRefused = errors.New("the model's chat template refuses the conversation")

// A SpecialTokenizer tokenizes text in which control tokens are written as
// text and become their ids. It is for templates only: never give it what an
// environment or a policy said.
type SpecialTokenizer interface {
	TokenizeSpecial(ctx context.Context, text string) ([]int32, error)
}
