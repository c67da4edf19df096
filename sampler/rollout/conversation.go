package rollout

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/empo2/empo2/sampler/chat"
)

// Keep says which turns show their tips in a prompt.
type Keep string

const (
	// KeepAll leaves every tip where it was shown: prompts only grow and a
	// trajectory is one row with tips and one without.
	KeepAll Keep = "all"
	// KeepLatest shows the tips of the newest turn only. The tip-free row
	// still only grows; the row with tips is split after every turn that
	// showed some.
	KeepLatest Keep = "latest"
)

// Conversation keeps the two renderings of one trajectory side by side: the
// rows that the policy was sampled with and the rows without any tip. Both are
// appended to, never edited, and both hold the same sampled ids in the same
// order. It is used by one goroutine: Prompt, then Sampled, and so on.
//
// Without a template there are messages and no rows.
type Conversation struct {
	template *chat.Template
	keep     Keep
	thinking chat.Thinking

	withoutTips, withTips         rendering
	saidWithoutTips, saidWithTips []chat.Message // as later prompts show it
	saidHasTips                   bool           // saidWithTips shows a tip

	asked         []chat.Message // by the last Prompt, until Sampled
	askedWithTips bool
}

// NewConversation starts an empty conversation. An empty keep is KeepAll, an
// empty thinking chat.ThinkingKeep. t may be nil.
func NewConversation(t *chat.Template, keep Keep, thinking chat.Thinking) *Conversation {
	return &Conversation{template: t, keep: keep, thinking: thinking}
}

// rowsWithoutLogprobs marks the rows, which are still empty, as rows whose
// log-probs the trainer must compute.
func (c *Conversation) rowsWithoutLogprobs() {
	c.withoutTips.row.WithoutLogprobs, c.withTips.row.WithoutLogprobs = true, true
}

// Prompt renders messages after what was said so far and returns all tokens up
// to the next sampled id; nil without a template. The messages become part of
// the conversation with Sampled; a Prompt that is not sampled from, because it
// is too long, leaves no trace.
func (c *Conversation) Prompt(ctx context.Context, messages ...chat.Message) ([]int32, error) {
	without := messagesWithoutTips(messages)
	c.asked, c.askedWithTips = messages, slices.ContainsFunc(messages, chat.Message.HasTips)
	if c.template == nil {
		return nil, nil
	}
	var err error
	if c.withoutTips.pending, err = c.withoutTips.extend(ctx, c.template, c.saidWithoutTips, without); err != nil {
		return nil, err
	}
	c.withTips.pending = c.withoutTips.pending
	if c.askedWithTips || c.saidHasTips && c.template.Unstable() != "" {
		if c.withTips.pending, err = c.withTips.extend(ctx, c.template, c.saidWithTips, messages); err != nil {
			return nil, err
		}
	}
	return slices.Concat(c.withTips.context, c.withTips.pending), nil
}

// Messages is the conversation as the last Prompt shows it, as text.
func (c *Conversation) Messages() []chat.Message { return slices.Concat(c.saidWithTips, c.asked) }

// Sampled appends the last Prompt and what the policy wrote after it, in ids
// and as text. There must be one log-prob per id; without a template neither
// is needed.
func (c *Conversation) Sampled(ids []int32, logprobs []float32, text string) error {
	switch {
	case len(c.asked) == 0:
		return fmt.Errorf("conversation: sampled without a prompt")
	case c.template != nil && (len(ids) == 0 || len(ids) != len(logprobs)):
		return fmt.Errorf("conversation: %d ids with %d log-probs", len(ids), len(logprobs))
	}
	cut, shown := c.template.WithoutThought(c.thinking, ids, text)
	c.record(chat.NewMessage(chat.RoleAssistant, shown))
	if c.template == nil {
		return nil
	}
	unstable := c.template.Unstable() != ""
	c.withTips.sampled(ids, logprobs, cut, unstable)
	c.withoutTips.sampled(ids, logprobs, cut, unstable)
	if c.keep == KeepLatest && c.saidHasTips {
		c.withTips.leave(c.withoutTips.context, SplitTips)
		c.saidHasTips = false
	}
	return nil
}

// record moves the last prompt and the answer to it to the recorded
// conversation.
func (c *Conversation) record(answer chat.Message) {
	without := messagesWithoutTips(c.asked)
	c.saidHasTips = c.saidHasTips || c.askedWithTips
	c.saidWithoutTips = append(append(c.saidWithoutTips, without...), answer)
	if c.keep == KeepLatest {
		c.saidWithTips = c.saidWithoutTips[:len(c.saidWithoutTips):len(c.saidWithoutTips)]
	} else {
		c.saidWithTips = append(append(c.saidWithTips, c.asked...), answer)
	}
	c.asked = nil
}

func messagesWithoutTips(messages []chat.Message) []chat.Message {
	without := make([]chat.Message, len(messages))
	for i, m := range messages {
		without[i] = m.WithoutTips()
	}
	return without
}

// Rows returns copies of the training rows: with tips as the policy saw them,
// or without. Every sampled id with a log-prob is trained in exactly one of
// them. There are none before the first Sampled, and none without a template.
func (c *Conversation) Rows(tips bool) []Row {
	if tips {
		return c.withTips.rows()
	}
	return c.withoutTips.rows()
}

// Splits counts where the rows with tips had to be cut, by reason; nil means
// that they are one.
func (c *Conversation) Splits() map[SplitReason]int { return maps.Clone(c.withTips.splits) }
