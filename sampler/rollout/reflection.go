package rollout

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// ReflectSpec says how a tip is sampled.
type ReflectSpec struct {
	Temperature float64 // 0 is greedy
	MaxTokens   int
	MaxPrompt   int // in tokens; 0: only the server limits it
	Seed        uint64
	// Earlier are tips that were written about the task before. The writer sees them.
	Earlier []prompt.Tip
}

// Reflect asks policy p for one tip about the episode and stores it in t's Tip fields. The prompt is the conversation
// without tips, then the result of the episode and the request for a tip. A thought before the tip is dropped, and an
// unfinished thought is no tip. A trajectory without turns is not changed. If the prompt is too long, Reflect returns
// [sampler.ErrContextFull].
func (d *Driver) Reflect(ctx context.Context, t *Trajectory, p sampler.Policy, s ReflectSpec) error {
	if len(t.Turns) == 0 {
		return nil
	}
	messages := d.reflectionMessages(t, s.Earlier)
	var ids []int32
	err := await(ctx, "server", "render the reflection", d.SampleTimeout, func(ctx context.Context) (err error) {
		ids, err = d.reflectionPrompt(ctx, t, messages)
		return err
	})
	if err != nil {
		return err
	}
	if s.MaxPrompt > 0 && len(ids) > s.MaxPrompt {
		return fmt.Errorf("reflect: %d tokens, %d allowed: %w", len(ids), s.MaxPrompt, sampler.ErrContextFull)
	}
	c, err := d.complete(ctx, p, sampler.Request{
		Prompt: ids, MaxTokens: s.MaxTokens, Temperature: s.Temperature,
		Seed: s.Seed, Session: t.session(), Messages: messages,
	})
	if err != nil {
		return fmt.Errorf("reflect: %w", err)
	}
	reply := chat.AfterThought(d.opened(c.Finish) + c.Text)
	t.Tip = d.cleanTip(reply, d.PromptTemplate.MaxTipCharacters)
	t.TipCut = c.Finish == sampler.FinishLength || t.Tip != d.cleanTip(reply, 0)
	t.TipIDs, t.TipLogprobs, t.TipVersion = c.IDs, c.Logprobs, c.Policy.Version
	if t.TipIDs == nil {
		t.TipIDs = []int32{} // nil would mean that the policy was not asked
	}
	return nil
}

// opened returns the mark of a thought that the prompt has opened, if the reply was cut off. Without the mark a thought
// that was cut off would be taken for the answer.
func (d *Driver) opened(finish sampler.FinishReason) string {
	if finish != sampler.FinishLength {
		return ""
	}
	return d.ChatTemplate.OpenThought()
}

// cleanTip extracts the tip from a reply without its thought, of at most limit characters (0: no limit).
func (d *Driver) cleanTip(reply string, limit int) string {
	if d.CleanTip == nil {
		return strings.TrimSpace(reply)
	}
	return d.CleanTip(reply, limit)
}

// reflectionMessages returns the conversation without tips, and the request for a tip with the earlier ones.
func (d *Driver) reflectionMessages(t *Trajectory, earlier []prompt.Tip) []chat.Message {
	var messages []chat.Message
	for _, turn := range t.Turns {
		text := chat.Neutralize(turn.text(), d.Neutralize)
		_, shown := d.ChatTemplate.WithoutThought(d.Thinking, turn.IDs, text)
		messages = append(messages, messagesWithoutTips(turn.Prompt)...)
		messages = append(messages, chat.NewMessage(chat.RoleAssistant, shown))
	}
	request := d.PromptTemplate.Request(t.Task, t.Final, earlier...)
	return append(messages, chat.NeutralizeMessages([]chat.Message{request}, d.Neutralize)...)
}

// reflectionPrompt renders the prompt of the reflection. It extends the last row without tips if the chat template is
// stable.
func (d *Driver) reflectionPrompt(ctx context.Context, t *Trajectory, messages []chat.Message) ([]int32, error) {
	switch {
	case d.ChatTemplate == nil:
		return nil, nil
	case len(t.RowsWithoutTips) == 0:
		return nil, fmt.Errorf("reflect: the episode was played without a chat template and has no token ids")
	case d.ChatTemplate.Unstable() != "":
		return d.ChatTemplate.Extend(ctx, nil, messages...)
	}
	row, reply := t.RowsWithoutTips[len(t.RowsWithoutTips)-1].Tokens, t.Turns[len(t.Turns)-1].IDs
	cut, _ := d.ChatTemplate.WithoutThought(d.Thinking, reply, "")
	history := slices.Concat(row[:len(row)-len(reply)], reply[cut:])
	request, err := d.ChatTemplate.Extend(ctx, history, messages[len(messages)-1])
	return append(history, request...), err
}
