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
// the request; a thought before the tip is no part of it. A trajectory without
// turns has nothing to reflect on and is left alone. A conversation that is
// too long is [ErrContextFull].
func (d *Driver) Reflect(ctx context.Context, t *Trajectory, p Policy, s ReflectSpec) error {
	if len(t.Turns) == 0 {
		return nil
	}
	messages := d.reflection(t)
	var prompt []int32
	err := within(ctx, d.SampleTimeout, "render the reflection", func(ctx context.Context) (err error) {
		prompt, err = d.reflectionPrompt(ctx, t, messages)
		return err
	})
	if err != nil {
		return err
	}
	if s.MaxPrompt > 0 && len(prompt) > s.MaxPrompt {
		return fmt.Errorf("reflect: %d tokens, %d allowed: %w", len(prompt), s.MaxPrompt, ErrContextFull)
	}
	c, err := d.complete(ctx, p, Request{
		Prompt: prompt, MaxTokens: s.MaxTokens, Temperature: s.Temperature,
		Seed: s.Seed, Session: t.session(), Messages: messages,
	})
	if err != nil {
		return fmt.Errorf("reflect: %w", err)
	}
	t.Tip, t.TipIDs, t.TipLogprobs, t.TipVersion = d.Format.CleanTip(afterThought(c.Text)), c.IDs, c.Logprobs, c.Policy.Version
	if t.TipIDs == nil {
		t.TipIDs = []int32{} // it was asked
	}
	return nil
}

// reflection is the conversation without tips and the request for one.
func (d *Driver) reflection(t *Trajectory) []Message {
	var messages []Message
	for _, turn := range t.Turns {
		_, shown := d.Template.answer(d.Thinking, turn.IDs, Neutralize(turn.text(), d.Neutral))
		messages = append(append(messages, withoutTips(turn.Prompt)...), say(RoleAssistant, shown))
	}
	return append(messages, neutral([]Message{d.Format.Request(t.Task, t.Final)}, d.Neutral)...)
}

// reflectionPrompt continues the last tip-free row where that is possible.
func (d *Driver) reflectionPrompt(ctx context.Context, t *Trajectory, messages []Message) ([]int32, error) {
	switch {
	case d.Template == nil:
		return nil, nil
	case len(t.Bare) == 0:
		return nil, fmt.Errorf("reflect: the episode was played on messages, without a template")
	case d.Template.Unstable() != "":
		return d.Template.Extend(ctx, nil, messages...)
	}
	row, last := t.Bare[len(t.Bare)-1].Tokens, t.Turns[len(t.Turns)-1].IDs
	cut, _ := d.Template.answer(d.Thinking, last, "")
	said := slices.Concat(row[:len(row)-len(last)], last[cut:])
	ext, err := d.Template.Extend(ctx, said, messages[len(messages)-1])
	return append(said, ext...), err
}
