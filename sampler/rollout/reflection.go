package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
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
// too long is [sampler.ErrContextFull].
func (d *Driver) Reflect(ctx context.Context, t *Trajectory, p sampler.Policy, s ReflectSpec) error {
	if len(t.Turns) == 0 {
		return nil
	}
	messages := d.reflection(t)
	var prompt []int32
	err := sampler.WithDeadline(ctx, d.SampleTimeout, "render the reflection", func(ctx context.Context) (err error) {
		prompt, err = d.reflectionPrompt(ctx, t, messages)
		return err
	})
	if err != nil {
		return err
	}
	if s.MaxPrompt > 0 && len(prompt) > s.MaxPrompt {
		return fmt.Errorf("reflect: %d tokens, %d allowed: %w", len(prompt), s.MaxPrompt, sampler.ErrContextFull)
	}
	c, err := d.complete(ctx, p, sampler.Request{
		Prompt: prompt, MaxTokens: s.MaxTokens, Temperature: s.Temperature,
		Seed: s.Seed, Session: t.session(), Messages: messages,
	})
	if err != nil {
		return fmt.Errorf("reflect: %w", err)
	}
	t.Tip = d.cleanTip(chat.AfterThought(c.Text))
	t.TipIDs, t.TipLogprobs, t.TipVersion = c.IDs, c.Logprobs, c.Policy.Version
	if t.TipIDs == nil {
		t.TipIDs = []int32{} // it was asked
	}
	return nil
}

func (d *Driver) cleanTip(reply string) string {
	if d.CleanTip == nil {
		return strings.TrimSpace(reply)
	}
	return d.CleanTip(reply, d.PromptTemplate.MaxTipCharacters)
}

// reflection is the conversation without tips and the request for one.
func (d *Driver) reflection(t *Trajectory) []chat.Message {
	var messages []chat.Message
	for _, turn := range t.Turns {
		_, shown := d.ChatTemplate.WithoutThought(d.Thinking, turn.IDs, chat.Neutralize(turn.text(), d.Neutral))
		messages = append(messages, messagesWithoutTips(turn.Prompt)...)
		messages = append(messages, chat.NewMessage(chat.RoleAssistant, shown))
	}
	request := d.PromptTemplate.Request(t.Task, t.Final)
	return append(messages, chat.NeutralizeMessages([]chat.Message{request}, d.Neutral)...)
}

// reflectionPrompt continues the last tip-free row where that is possible.
func (d *Driver) reflectionPrompt(ctx context.Context, t *Trajectory, messages []chat.Message) ([]int32, error) {
	switch {
	case d.ChatTemplate == nil:
		return nil, nil
	case len(t.RowsWithoutTips) == 0:
		return nil, fmt.Errorf("reflect: the episode was played on messages, without a template")
	case d.ChatTemplate.Unstable() != "":
		return d.ChatTemplate.Extend(ctx, nil, messages...)
	}
	row, last := t.RowsWithoutTips[len(t.RowsWithoutTips)-1].Tokens, t.Turns[len(t.Turns)-1].IDs
	cut, _ := d.ChatTemplate.WithoutThought(d.Thinking, last, "")
	said := slices.Concat(row[:len(row)-len(last)], last[cut:])
	ext, err := d.ChatTemplate.Extend(ctx, said, messages[len(messages)-1])
	return append(said, ext...), err
}
