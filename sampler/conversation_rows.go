package sampler

import (
	"context"
	"slices"
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
// the policy saw it, but is not trained, unless none is asked for.
func (s *Sequence) sampled(ids []int32, logprobs []float32) {
	for i, id := range ids {
		known := !s.Unscored && finite(float64(logprobs[i]))
		s.Tokens = append(s.Tokens, id)
		s.Trained = append(s.Trained, known || s.Unscored)
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

// A track is one rendering of a conversation: the row that grows, and those
// that ended because something left the prompt.
type track struct {
	row    Sequence
	closed []Sequence
	splits map[SplitReason]int
	// context is what the next prompt begins with, and why it is not the row;
	// empty: it is.
	context []int32
	why     SplitReason
	pending []int32 // what the next prompt has after the context
}

// extend is what a prompt has after the context.
func (r *track) extend(ctx context.Context, t *Template, said, asked []Message) ([]int32, error) {
	if t.Unstable() != "" {
		return t.Extend(ctx, nil, slices.Concat(said, asked)...)
	}
	return t.Extend(ctx, r.context, asked...)
}

// sampled appends the pending prompt and what the policy wrote after it. The
// first cut ids leave the next prompt; under an unstable template all does.
func (r *track) sampled(ids []int32, logprobs []float32, cut int, unstable bool) {
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
func (r *track) leave(context []int32, why SplitReason) {
	r.context = context
	if r.why == "" {
		r.why = why
	}
}

// split ends the row and begins another with the context.
func (r *track) split() {
	if r.splits == nil {
		r.splits = map[SplitReason]int{}
	}
	r.splits[r.why]++
	r.closed = append(r.closed, r.row)
	r.row = Sequence{Unscored: r.row.Unscored}
	r.row.given(r.context)
}

func (r *track) rows() []Sequence {
	if len(r.row.Tokens) == 0 {
		return nil
	}
	rows := make([]Sequence, 0, len(r.closed)+1)
	for _, s := range r.closed {
		rows = append(rows, s.clone())
	}
	return append(rows, r.row.clone())
}
