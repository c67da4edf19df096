package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

const compareTimeout = 2 * time.Minute

// compareTokenizers returns an error if the server encodes texts with its own
// tokenizer, and that is not the tokenizer of the model in model.path. The other
// servers take ids of the trainer's tokenizer, or are compared when they are
// opened.
func compareTokenizers(ctx context.Context, c config.Config, trainer *trainerbridge.Local, s served) error {
	if s.tokenizer == nil || backends[c.Sampler.Backend].codec {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, compareTimeout,
		fmt.Errorf("tokenizers not compared within %v", compareTimeout))
	defer cancel()
	own := trainer.Codec()
	defer own.Close()
	return sameTokenizer(ctx, own, s.tokenizer, s.Backend)
}

// sameTokenizer compares the tokenizer of the model with that of a server.
func sameTokenizer(ctx context.Context, own, theirs chat.Tokenizer, b sampler.Backend) error {
	d, err := chat.CompareTokenizers(ctx, own, theirs)
	if err != nil || d == nil {
		return err
	}
	can, err := b.Capabilities(ctx)
	text := "the server's tokenizer is not the model's: " + d.String()
	if hint := can.Hints["tokenizer"]; hint != "" {
		text += "\n  hint: " + hint
	}
	return &serverError{errors.Join(errors.New(text), err)}
}
