package main

import (
	"context"
	"errors"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
)

// A tokenCounter is a server that tells of its tokenizer only how many tokens a text
// has.
type tokenCounter interface {
	CountTokens(ctx context.Context, text string) (int, error)
}

// compareTokenizers returns an error if the server encodes texts with its own
// tokenizer, and that is not the tokenizer of the model in model.path. Servers that
// take ids of the trainer's tokenizer are compared when they are opened. Each call has
// the deadline of its client.
func compareTokenizers(ctx context.Context, c config.Config, trainer runTrainer, s served) error {
	counter, counts := s.Backend.(tokenCounter)
	if !counts && (s.tokenizer == nil || backends[c.Sampler.Backend].codec) {
		return nil
	}
	own := trainer.Codec()
	defer own.Close()
	defer watchdog.Begin(ctx, "server", "compare its tokenizer with the model's", 0)()
	if counts {
		return sameCounts(ctx, own, counter, s.Backend)
	}
	return sameTokenizer(ctx, own, s.tokenizer, s.Backend)
}

// sameTokenizer compares the tokenizer of the model with that of a server.
func sameTokenizer(ctx context.Context, own, theirs chat.Tokenizer, b sampler.Backend) error {
	d, err := chat.CompareTokenizers(ctx, own, theirs)
	if err != nil || d == nil {
		return err
	}
	return otherTokenizer(ctx, d.String(), b)
}

// sameCounts compares the tokenizer of the model with that of a server that only
// counts.
func sameCounts(ctx context.Context, own chat.Tokenizer, theirs tokenCounter, b sampler.Backend) error {
	difference, err := chat.CompareCounts(ctx, own, theirs.CountTokens)
	if err != nil || difference == "" {
		return err
	}
	return otherTokenizer(ctx, difference, b)
}

// otherTokenizer is the error for a server with another tokenizer.
func otherTokenizer(ctx context.Context, difference string, b sampler.Backend) error {
	can, err := b.Capabilities(ctx)
	text := "the server's tokenizer is not the model's: " + difference
	if hint := can.Hints["tokenizer"]; hint != "" {
		text += "\n  hint: " + hint
	}
	return &serverError{errors.Join(errors.New(text), err)}
}
