package chat

import (
	"context"
	"errors"
)

// A Tokenizer is the server's own tokenizer. It tokenizes control tokens in text as plain text, so that no observation
// and no tip can forge one.
type Tokenizer interface {
	Tokenize(ctx context.Context, text string) ([]int32, error)
}

// ControlTokens returns the id of a control token, for example "<|im_end|>", or an error if the model has no such
// token.
type ControlTokens interface {
	ControlToken(ctx context.Context, text string) (int32, error)
}

// A Codec is the model's own tokenizer in both directions. Backends of text servers use the trainer's tokenizer.
type Codec interface {
	Tokenizer
	ControlTokens
	// Detokenize decodes ids. Control tokens become their text.
	Detokenize(ctx context.Context, ids []int32) (string, error)
}

// A Renderer applies the model's own chat template, as the server or the trainer does. It returns the whole
// conversation as text with control tokens, including the beginning-of-text token if the server adds one. The last
// message must be the user's. With generation the text ends with the beginning of the policy's message. If the
// template refuses the conversation, the error wraps [ErrRefused].
type Renderer interface {
	Render(ctx context.Context, messages []Message, generation bool) (string, error)
}

// ErrRefused is wrapped by a Renderer if the model's template refuses a conversation, for example because it has no
// system role.
var ErrRefused = errors.New("the model's chat template refuses the conversation")

// A SpecialTokenizer tokenizes text and parses control tokens in it. Use it only for the texts of templates, never for
// texts of an environment or a policy.
type SpecialTokenizer interface {
	TokenizeSpecial(ctx context.Context, text string) ([]int32, error)
}
