package vllm

import (
	"context"

	"github.com/empo2/empo2/sampler/fleet"
)

// Tokenize encodes text and adds no tokens. Control tokens written in it are
// plain text.
func (b *Backend) Tokenize(ctx context.Context, text string) ([]int32, error) {
	return b.text.Tokenize(ctx, text)
}

// ControlToken returns the id of a control token, for example "<|im_end|>". It
// returns an error if the model has no such token.
func (b *Backend) ControlToken(ctx context.Context, text string) (int32, error) {
	return b.text.ControlToken(ctx, text)
}

// ServerText returns the servers' own tokenizer and chat template, or nil if Open got
// the trainer's tokenizer.
func (b *Backend) ServerText() *fleet.ServerText {
	text, _ := b.text.(*fleet.ServerText)
	return text
}

func (c *Config) tokenizer(servers []fleet.Server) tokenizer {
	if c.Codec != nil {
		return c.Codec
	}
	return fleet.NewServerText(servers, c.RequestTimeout)
}
