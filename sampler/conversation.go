package sampler

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
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

// SplitReason says why a row had to end before its trajectory did.
type SplitReason string

const (
	// SplitTips: an earlier tip left the prompt (KeepLatest).
	SplitTips SplitReason = "tips"
	// SplitThought: a thought left the prompt (ThinkingStrip).
	SplitThought SplitReason = "thought"
	// SplitTemplate: the template is unstable.
	SplitTemplate SplitReason = "template"
)

// Conversation keeps the two renderings of one trajectory side by side: the
// rows that the policy was sampled with and the rows without any tip. Both are
// appended to, never edited, and both hold the same sampled ids in the same
// order. It is used by one goroutine: Prompt, then Sampled, and so on.
//
// Without a template there are messages and no rows.
type Conversation struct {
	template *Template
	keep     Keep
	thinking Thinking

	bare, tipped         track
	bareSaid, tippedSaid []Message // as later prompts show it
	hasTips              bool      // tippedSaid shows a tip

	asked    []Message // by the last Prompt, until Sampled
	askedTip bool
}

// NewConversation starts an empty conversation. An empty keep is KeepAll, an
// empty thinking ThinkingKeep. t may be nil.
func NewConversation(t *Template, keep Keep, thinking Thinking) *Conversation {
	return &Conversation{template: t, keep: keep, thinking: thinking}
}

// unscored marks the rows, which are still empty, as such that the trainer
// must score.
func (c *Conversation) unscored() { c.bare.row.Unscored, c.tipped.row.Unscored = true, true }

// Prompt renders messages after what was said so far and returns all tokens up
// to the next sampled id; nil without a template. The messages become part of
// the conversation with Sampled; a Prompt that is not sampled from, because it
// is too long, leaves no trace.
func (c *Conversation) Prompt(ctx context.Context, messages ...Message) ([]int32, error) {
	bare := withoutTips(messages)
	c.asked, c.askedTip = messages, slices.ContainsFunc(messages, Message.HasTips)
	if c.template == nil {
		return nil, nil
	}
	var err error
	if c.bare.pending, err = c.bare.extend(ctx, c.template, c.bareSaid, bare); err != nil {
		return nil, err
	}
	c.tipped.pending = c.bare.pending
	if c.askedTip || c.hasTips && c.template.Unstable() != "" {
		if c.tipped.pending, err = c.tipped.extend(ctx, c.template, c.tippedSaid, messages); err != nil {
			return nil, err
		}
	}
	return slices.Concat(c.tipped.context, c.tipped.pending), nil
}

// Messages is the conversation as the last Prompt shows it, as text.
func (c *Conversation) Messages() []Message { return slices.Concat(c.tippedSaid, c.asked) }

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
	cut, shown := c.template.answer(c.thinking, ids, text)
	c.said(say(RoleAssistant, shown))
	if c.template == nil {
		return nil
	}
	unstable := c.template.Unstable() != ""
	c.tipped.sampled(ids, logprobs, cut, unstable)
	c.bare.sampled(ids, logprobs, cut, unstable)
	if c.keep == KeepLatest && c.hasTips {
		c.tipped.leave(c.bare.context, SplitTips)
		c.hasTips = false
	}
	return nil
}

// said moves what was asked, and the answer, to what was said.
func (c *Conversation) said(answer Message) {
	bare := withoutTips(c.asked)
	c.hasTips = c.hasTips || c.askedTip
	c.bareSaid = append(append(c.bareSaid, bare...), answer)
	if c.keep == KeepLatest {
		c.tippedSaid = c.bareSaid[:len(c.bareSaid):len(c.bareSaid)]
	} else {
		c.tippedSaid = append(append(c.tippedSaid, c.asked...), answer)
	}
	c.asked = nil
}

func withoutTips(messages []Message) []Message {
	bare := make([]Message, len(messages))
	for i, m := range messages {
		bare[i] = m.WithoutTips()
	}
	return bare
}

// Rows returns copies of the training rows: with tips as the policy saw them,
// or without. Every sampled id with a log-prob is trained in exactly one of
// them. There are none before the first Sampled, and none without a template.
func (c *Conversation) Rows(tips bool) []Sequence {
	if tips {
		return c.tipped.rows()
	}
	return c.bare.rows()
}

// Splits counts where the rows with tips had to be cut, by reason; nil means
// that they are one.
func (c *Conversation) Splits() map[SplitReason]int { return maps.Clone(c.tipped.splits) }

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
