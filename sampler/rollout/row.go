package rollout

import (
	"context"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler/chat"
)

// SplitReason says why a row had to end before its trajectory did.
type SplitReason string

const (
	// SplitTips: an earlier tip left the prompt (KeepLatest).
	SplitTips SplitReason = "tips"
	// SplitThought: a thought left the prompt (chat.ThinkingStrip).
	SplitThought SplitReason = "thought"
	// SplitTemplate: the template is unstable.
	SplitTemplate SplitReason = "template"
)

// Row is what the trainer trains on: a sequence of tokens that only grows. The
// slices have equal length.
type Row struct {
	Tokens []int32 `json:"tokens"`
	// LossMask marks the tokens that the policy wrote in this row and that may be
	// trained on.
	LossMask []bool `json:"loss_mask"`
	// Logprobs are the sampler's, in nats; 0 where LossMask is false.
	Logprobs []float32 `json:"logprobs"`
	// WithoutLogprobs: the sampler gave no log-probs. Those of trained tokens
	// are 0, and the trainer must compute them.
	WithoutLogprobs bool `json:"without_logprobs,omitempty"`
}

// given appends tokens that the policy did not write.
func (s *Row) given(ids []int32) {
	s.Tokens = append(s.Tokens, ids...)
	s.LossMask = append(s.LossMask, make([]bool, len(ids))...)
	s.Logprobs = append(s.Logprobs, make([]float32, len(ids))...)
}

// sampled appends what the policy wrote. A token without a log-prob stays, as
// the policy saw it, but is not trained, unless none is asked for.
func (s *Row) sampled(ids []int32, logprobs []float32) {
	for i, id := range ids {
		known := !s.WithoutLogprobs && finite(float64(logprobs[i]))
		s.Tokens = append(s.Tokens, id)
		s.LossMask = append(s.LossMask, known || s.WithoutLogprobs)
		if known {
			s.Logprobs = append(s.Logprobs, logprobs[i])
		} else {
			s.Logprobs = append(s.Logprobs, 0)
		}
	}
}

func (s Row) clone() Row {
	return Row{slices.Clone(s.Tokens), slices.Clone(s.LossMask), slices.Clone(s.Logprobs), s.WithoutLogprobs}
}

// A rendering is one form of a conversation: the row that grows, and the rows
// that ended because something left the prompt.
type rendering struct {
	row    Row
	closed []Row
	splits map[SplitReason]int
	// context is what the next prompt begins with, and why it is not the row;
	// empty: it is.
	context []int32
	why     SplitReason
	pending []int32 // what the next prompt has after the context
}

// extend is what a prompt has after the context.
func (r *rendering) extend(ctx context.Context, t *chat.Template, said, asked []chat.Message) ([]int32, error) {
	if t.Unstable() != "" {
		return t.Extend(ctx, nil, slices.Concat(said, asked)...)
	}
	return t.Extend(ctx, r.context, asked...)
}

// sampled appends the pending prompt and what the policy wrote after it. The
// first cut ids leave the next prompt; under an unstable template all does.
func (r *rendering) sampled(ids []int32, logprobs []float32, cut int, unstable bool) {
	if r.why != "" {
		r.split()
	}
	r.row.given(r.pending)
	r.row.sampled(ids, logprobs)
	r.context, r.pending, r.why = r.row.Tokens, nil, ""
	prompt := len(r.row.Tokens) - len(ids)
	switch {
	case unstable:
		r.leave(nil, SplitTemplate)
	case cut > 0:
		r.leave(slices.Concat(r.row.Tokens[:prompt], ids[cut:]), SplitThought)
	}
}

// leave makes context the beginning of the next prompt, in place of the row. A
// reason that was given before stays.
func (r *rendering) leave(context []int32, why SplitReason) {
	r.context = context
	if r.why == "" {
		r.why = why
	}
}

// split ends the row and begins another with the context.
func (r *rendering) split() {
	if r.splits == nil {
		r.splits = map[SplitReason]int{}
	}
	r.splits[r.why]++
	r.closed = append(r.closed, r.row)
	r.row = Row{WithoutLogprobs: r.row.WithoutLogprobs}
	r.row.given(r.context)
}

func (r *rendering) rows() []Row {
	if len(r.row.Tokens) == 0 {
		return nil
	}
	rows := make([]Row, 0, len(r.closed)+1)
	for _, s := range r.closed {
		rows = append(rows, s.clone())
	}
	return append(rows, r.row.clone())
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
