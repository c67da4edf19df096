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
	// KeepAll keeps every tip in the turn that first showed it. Prompts only grow, and a trajectory is one row with
	// tips and one row without.
	KeepAll Keep = "all"
	// KeepLatest shows only the tips of the newest turn. The row without tips only grows. The row with tips is split
	// after every turn that showed tips.
	KeepLatest Keep = "latest"
)

// Conversation builds the two renderings of one episode: the rows with tips, as the policy was sampled, and the rows
// without any tip, for off-policy training. Both contain the same sampled ids in the same order, and both are only
// appended to. One goroutine calls Prompt and AddCompletion in turn.
//
// Without a chat template a conversation has messages and no rows.
type Conversation struct {
	template *chat.Template
	keep     Keep
	thinking chat.Thinking

	withTips, withoutTips renderedRows

	// The messages up to the last completion, as later prompts show them.
	historyWithTips, historyWithoutTips []chat.Message
	historyHasTips                      bool // historyWithTips contains a tip

	// The messages of the last Prompt, until AddCompletion.
	prompted        []chat.Message
	promptedHasTips bool
}

// NewConversation starts an empty conversation. An empty keep means KeepAll, an empty thinking means chat.ThinkingKeep.
// The template t may be nil.
func NewConversation(t *chat.Template, keep Keep, thinking chat.Thinking) *Conversation {
	return &Conversation{template: t, keep: keep, thinking: thinking}
}

// setWithoutLogprobs marks the rows as rows whose log-probs the trainer must compute. The rows must be empty.
func (c *Conversation) setWithoutLogprobs() {
	c.withoutTips.row.WithoutLogprobs, c.withTips.row.WithoutLogprobs = true, true
}

// Prompt renders messages after the history and returns all token ids up to the next sampled id, with tips. Without a
// template it returns nil. AddCompletion makes the messages part of the history. A prompt without a completion, because
// it is too long, changes nothing.
func (c *Conversation) Prompt(ctx context.Context, messages ...chat.Message) ([]int32, error) {
	c.prompted, c.promptedHasTips = messages, slices.ContainsFunc(messages, chat.Message.HasTips)
	if c.template == nil {
		return nil, nil
	}
	added, err := c.withoutTips.render(ctx, c.template, c.historyWithoutTips, messagesWithoutTips(messages))
	if err != nil {
		return nil, err
	}
	c.withoutTips.pending, c.withTips.pending = added, added
	if c.promptedHasTips || c.historyHasTips && c.template.Unstable() != "" {
		if added, err = c.withTips.render(ctx, c.template, c.historyWithTips, messages); err != nil {
			return nil, err
		}
		c.withTips.pending = added
	}
	return slices.Concat(c.withTips.context, c.withTips.pending), nil
}

// messagesWithoutTips removes the tips from messages. This is where an off-policy row loses its tips: the rows without
// tips are rendered from the result, so that no tip token is ever searched for or cut out.
func messagesWithoutTips(messages []chat.Message) []chat.Message {
	without := make([]chat.Message, len(messages))
	for i, m := range messages {
		without[i] = m.WithoutTips()
	}
	return without
}

// Messages returns the conversation up to the last Prompt as text, with tips.
func (c *Conversation) Messages() []chat.Message { return slices.Concat(c.historyWithTips, c.prompted) }

// AddCompletion appends the last Prompt and the policy's completion: its ids, one log-prob in nats per id, and its
// text. Without a template ids and logprobs may be empty.
func (c *Conversation) AddCompletion(ids []int32, logprobs []float32, text string) error {
	switch {
	case len(c.prompted) == 0:
		return fmt.Errorf("conversation: a completion without a prompt")
	case c.template != nil && (len(ids) == 0 || len(ids) != len(logprobs)):
		return fmt.Errorf("conversation: %d ids with %d log-probs", len(ids), len(logprobs))
	}
	cut, shown := c.template.WithoutThought(c.thinking, ids, text)
	c.addToHistory(chat.NewMessage(chat.RoleAssistant, shown))
	if c.template == nil {
		return nil
	}
	unstable := c.template.Unstable() != ""
	c.withTips.addCompletion(ids, logprobs, cut, unstable)
	c.withoutTips.addCompletion(ids, logprobs, cut, unstable)
	if c.keep == KeepLatest && c.historyHasTips {
		c.withTips.setContext(c.withoutTips.context, SplitTips)
		c.historyHasTips = false
	}
	return nil
}

// addToHistory moves the messages of the last prompt and the answer to the history.
func (c *Conversation) addToHistory(answer chat.Message) {
	c.historyHasTips = c.historyHasTips || c.promptedHasTips
	c.historyWithoutTips = append(append(c.historyWithoutTips, messagesWithoutTips(c.prompted)...), answer)
	if c.keep == KeepLatest {
		c.historyWithTips = slices.Clip(c.historyWithoutTips)
	} else {
		c.historyWithTips = append(append(c.historyWithTips, c.prompted...), answer)
	}
	c.prompted = nil
}

// Rows returns copies of the training rows, with tips as the policy was sampled, or without tips. Every sampled id
// with a log-prob is trained in exactly one row. There are no rows before the first completion, and none without a
// template.
func (c *Conversation) Rows(tips bool) []Row {
	if tips {
		return c.withTips.rows()
	}
	return c.withoutTips.rows()
}

// Splits counts the splits of the rows with tips by reason. Nil means one row without splits.
func (c *Conversation) Splits() map[SplitReason]int { return maps.Clone(c.withTips.splits) }
