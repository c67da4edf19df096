package sampler

import (
	"context"
	"fmt"
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

// Sequence is a growing row of tokens. The slices have equal length.
type Sequence struct {
	Tokens []int32 `json:"tokens"`
	// Trained marks what the policy wrote in this row and may be trained on.
	Trained []bool `json:"trained"`
	// Logprobs are the sampler's, in nats; 0 where Trained is false.
	Logprobs []float32 `json:"logprobs"`
	// Unscored: the sampler gave no log-probs; those of trained tokens are 0
	// and the trainer's must be taken.
	Unscored bool `json:"unscored,omitempty"`
}

// given appends tokens that the policy did not write.
func (s *Sequence) given(ids []int32) {
	s.Tokens = append(s.Tokens, ids...)
	s.Trained = append(s.Trained, make([]bool, len(ids))...)
	s.Logprobs = append(s.Logprobs, make([]float32, len(ids))...)
}

// sampled appends what the policy wrote. A token without a log-prob stays, as
// the policy saw it, but is not trained.
func (s *Sequence) sampled(ids []int32, logprobs []float32) {
	for i, id := range ids {
		known := finite(float64(logprobs[i]))
		s.Tokens = append(s.Tokens, id)
		s.Trained = append(s.Trained, known)
		if known {
			s.Logprobs = append(s.Logprobs, logprobs[i])
		} else {
			s.Logprobs = append(s.Logprobs, 0)
		}
	}
}

func (s Sequence) clone() Sequence {
	return Sequence{slices.Clone(s.Tokens), slices.Clone(s.Trained), slices.Clone(s.Logprobs), s.Unscored}
}

// Conversation keeps the two renderings of one trajectory side by side: the
// row that the policy was sampled with and the row without any tip. Both are
// appended to, never edited, and both hold the same sampled ids in the same
// order. It is used by one goroutine: Prompt, then Sampled, and so on.
type Conversation struct {
	template *Template
	keep     Keep
	bare     Sequence
	tipped   Sequence   // what the policy sees
	hasTips  bool       // tipped holds a tip
	closed   []Sequence // earlier tipped rows, KeepLatest only

	pendingBare, pendingTipped []int32 // from the last Prompt, until Sampled
	pendingTips, pendingSplit  bool
}

// NewConversation starts an empty conversation. An empty keep is KeepAll.
func NewConversation(t *Template, keep Keep) *Conversation {
	return &Conversation{template: t, keep: keep}
}

// Prompt renders messages after what was said so far and returns all tokens up
// to the next sampled id. The messages become part of the rows with Sampled; a
// Prompt that is not sampled from, because it is too long, leaves no trace.
func (c *Conversation) Prompt(ctx context.Context, messages ...Message) ([]int32, error) {
	bareMessages := make([]Message, len(messages))
	c.pendingTips = false
	for i, m := range messages {
		bareMessages[i] = m.WithoutTips()
		c.pendingTips = c.pendingTips || m.HasTips()
	}
	var err error
	if c.pendingBare, err = c.template.Extend(ctx, c.bare.Tokens, bareMessages...); err != nil {
		return nil, err
	}
	c.pendingTipped = c.pendingBare
	if c.pendingTips {
		if c.pendingTipped, err = c.template.Extend(ctx, c.tipped.Tokens, messages...); err != nil {
			return nil, err
		}
	}
	c.pendingSplit = c.keep == KeepLatest && c.hasTips
	if c.pendingSplit {
		return slices.Concat(c.bare.Tokens, c.pendingTipped), nil
	}
	return slices.Concat(c.tipped.Tokens, c.pendingTipped), nil
}

// Sampled appends the last Prompt and what the policy wrote after it. There
// must be one log-prob per id.
func (c *Conversation) Sampled(ids []int32, logprobs []float32) error {
	if len(c.pendingBare) == 0 {
		return fmt.Errorf("conversation: sampled without a prompt")
	}
	if len(ids) == 0 || len(ids) != len(logprobs) {
		return fmt.Errorf("conversation: %d ids with %d log-probs", len(ids), len(logprobs))
	}
	if c.pendingSplit {
		c.closed = append(c.closed, c.tipped)
		c.tipped, c.hasTips = Sequence{}, false
		c.tipped.given(c.bare.Tokens)
	}
	c.tipped.given(c.pendingTipped)
	c.tipped.sampled(ids, logprobs)
	c.bare.given(c.pendingBare)
	c.bare.sampled(ids, logprobs)
	c.hasTips = c.hasTips || c.pendingTips
	c.pendingBare, c.pendingTipped = nil, nil
	return nil
}

// Rows returns copies of the training rows: with tips as the policy saw them,
// or without. Every sampled id with a log-prob is trained in exactly one of
// them. There are none before the first Sampled.
func (c *Conversation) Rows(tips bool) []Sequence {
	if len(c.bare.Tokens) == 0 {
		return nil
	}
	if !tips {
		return []Sequence{c.bare.clone()}
	}
	rows := make([]Sequence, 0, len(c.closed)+1)
	for _, s := range c.closed {
		rows = append(rows, s.clone())
	}
	return append(rows, c.tipped.clone())
}

// Splits counts where the row with tips had to be cut because an earlier tip
// left the prompt (KeepLatest); 0 means that it is one row.
func (c *Conversation) Splits() int { return len(c.closed) }

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
