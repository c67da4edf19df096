package llamacpp

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/sampler"
)

// Tokenize encodes text with the model's tokenizer and adds no tokens. Control
// tokens in the text are plain text.
func (b *Backend) Tokenize(ctx context.Context, text string) ([]int32, error) {
	if text == "" {
		return nil, nil
	}
	ids, err := b.tokenize(ctx, text, false)
	if err != nil {
		return nil, fmt.Errorf("tokenize %.40q: %w", text, err)
	}
	return ids, nil
}

// ControlToken returns the id of a control token, for example "<|im_end|>". It
// returns an error if the model has no such token.
func (b *Backend) ControlToken(ctx context.Context, text string) (int32, error) {
	special, err := b.tokenize(ctx, text, true)
	if err != nil {
		return 0, fmt.Errorf("control token %.40q: %w", text, err)
	}
	plain, err := b.tokenize(ctx, text, false)
	if err != nil {
		return 0, fmt.Errorf("control token %.40q: %w", text, err)
	}
	if len(special) != 1 || len(plain) == 1 && plain[0] == special[0] {
		return 0, fmt.Errorf("control token %.40q: the model has no such token", text)
	}
	return special[0], nil
}

func (b *Backend) tokenize(ctx context.Context, text string, special bool) (ids []int32, err error) {
	v, err := b.anyVersion()
	if err != nil {
		return nil, err
	}
	defer v.gate.Leave()
	err = v.do(ctx, func(ctx context.Context, r *engine) error {
		return v.withDeadline(ctx, r, func(ctx context.Context) (err error) {
			ids, err = r.client.tokenize(ctx, text, special)
			return err
		})
	})
	if err == nil {
		err = b.caps.CheckVocabulary(ids)
	}
	return ids, err
}

// anyVersion enters the gate of a served version, preferably of the base model.
func (b *Backend) anyVersion() (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if b.base != nil && b.base.usable() && b.base.gate.Enter() {
		return b.base, nil
	}
	for _, v := range b.versions {
		if v.usable() && v.gate.Enter() {
			return v, nil
		}
	}
	return nil, fmt.Errorf("%w: %w", sampler.ErrPolicyGone, errors.New("no version is served"))
}

// Detokenize decodes ids. Control tokens become their text, and what is no UTF-8
// becomes U+FFFD.
func (b *Backend) Detokenize(ctx context.Context, ids []int32) (text string, err error) {
	v, err := b.anyVersion()
	if err != nil {
		return "", err
	}
	defer v.gate.Leave()
	err = v.do(ctx, func(ctx context.Context, r *engine) error {
		return v.withDeadline(ctx, r, func(ctx context.Context) (err error) {
			text, err = r.client.detokenize(ctx, ids)
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("detokenize: %w", err)
	}
	return text, nil
}
