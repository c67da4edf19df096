package sampler

import (
	"context"
	"fmt"
	"slices"
)

// ReflectSpec says how a tip is sampled.
type ReflectSpec struct {
	Temperature float64 // 0 is greedy
	MaxTokens   int
	MaxPrompt   int // tokens; 0: no limit of ours
	Seed        uint64
}

// Reflect asks policy p for one tip about the episode and fills t's Tip
// fields. The policy sees the conversation without tips, then the result and
// the request. A trajectory without turns has nothing to reflect on and is
// left alone. A conversation that is too long is [ErrContextFull].
func (d *Driver) Reflect(ctx context.Context, t *Trajectory, p Policy, s ReflectSpec) error {
	if len(t.Bare) == 0 {
		return nil
	}
	said := t.Bare[len(t.Bare)-1].Tokens
	var ext []int32
	err := within(ctx, d.SampleTimeout, "render the reflection", func(ctx context.Context) (err error) {
		ext, err = d.Template.Extend(ctx, said, d.Format.Request(t.Task, t.Final))
		return err
	})
	if err != nil {
		return err
	}
	prompt := slices.Concat(said, ext)
	if s.MaxPrompt > 0 && len(prompt) > s.MaxPrompt {
		return fmt.Errorf("reflect: %d tokens, %d allowed: %w", len(prompt), s.MaxPrompt, ErrContextFull)
	}
	c, err := d.complete(ctx, p, Request{
		Prompt: prompt, MaxTokens: s.MaxTokens, Temperature: s.Temperature,
		Seed: s.Seed, Session: t.session(),
	})
	if err != nil {
		return fmt.Errorf("reflect: %w", err)
	}
	t.Tip, t.TipIDs, t.TipLogprobs, t.TipVersion = d.Format.CleanTip(c.Text), c.IDs, c.Logprobs, c.Policy.Version
	return nil
}
