package rollout

import (
	"context"
	"math"
	"slices"

	"github.com/empo2/empo2/sampler/chat"
)

// SplitReason says why a row ended before its episode.
type SplitReason string

const (
	// SplitTips means that an earlier tip left the prompt (KeepLatest).
	SplitTips SplitReason = "tips"
	// SplitThought means that a thought left the prompt (chat.ThinkingStrip).
	SplitThought SplitReason = "thought"
	// SplitTemplate means that the chat template is unstable: the next prompt does not begin with this one.
	SplitTemplate SplitReason = "template"
)

// Row is a sequence of tokens that the trainer trains on. The slices have equal lengths.
type Row struct {
	Tokens []int32 `json:"tokens"`
	// LossMask is true for the tokens to train: those that the policy sampled in this row and that have a log-prob.
	LossMask []bool `json:"loss_mask"`
	// Logprobs are the sampler's log-probs in nats. They are 0 where LossMask is false.
	Logprobs []float32 `json:"logprobs"`
	// WithoutLogprobs says that the sampler returned no log-probs. Logprobs are all 0, and the trainer must compute
	// them.
	WithoutLogprobs bool `json:"without_logprobs,omitempty"`
}

// addPrompt appends tokens that the policy did not sample.
func (r *Row) addPrompt(ids []int32) {
	r.Tokens = append(r.Tokens, ids...)
	r.LossMask = append(r.LossMask, make([]bool, len(ids))...)
	r.Logprobs = append(r.Logprobs, make([]float32, len(ids))...)
}

// addCompletion appends sampled tokens. A token whose log-prob is NaN is masked, unless the row has no log-probs at
// all.
func (r *Row) addCompletion(ids []int32, logprobs []float32) {
	for i, id := range ids {
		known := !r.WithoutLogprobs && finite(float64(logprobs[i]))
		r.Tokens = append(r.Tokens, id)
		r.LossMask = append(r.LossMask, known || r.WithoutLogprobs)
		if known {
			r.Logprobs = append(r.Logprobs, logprobs[i])
		} else {
			r.Logprobs = append(r.Logprobs, 0)
		}
	}
}

func (r Row) clone() Row {
	return Row{slices.Clone(r.Tokens), slices.Clone(r.LossMask), slices.Clone(r.Logprobs), r.WithoutLogprobs}
}

// renderedRows is one rendering of a conversation, with tips or without: the row that grows, and the rows that ended
// because something left the prompt.
type renderedRows struct {
	row    Row
	closed []Row
	splits map[SplitReason]int
	// context is the beginning of the next prompt. splitReason says why it is not the row; empty: it is the row.
	context     []int32
	splitReason SplitReason
	pending     []int32 // the rest of the next prompt, after context
}

// render returns the ids of a prompt after the context.
func (r *renderedRows) render(
	ctx context.Context, t *chat.Template, history, messages []chat.Message,
) ([]int32, error) {
	if t.Unstable() != "" {
		return t.Extend(ctx, nil, slices.Concat(history, messages)...)
	}
	return t.Extend(ctx, r.context, messages...)
}

// addCompletion appends the pending prompt and the completion. The first cut ids are not part of the next prompt. Under
// an unstable template the next prompt is rendered from scratch.
func (r *renderedRows) addCompletion(ids []int32, logprobs []float32, cut int, unstable bool) {
	if r.splitReason != "" {
		r.split()
	}
	r.row.addPrompt(r.pending)
	r.row.addCompletion(ids, logprobs)
	r.context, r.pending, r.splitReason = r.row.Tokens, nil, ""
	prompt := len(r.row.Tokens) - len(ids)
	switch {
	case unstable:
		r.setContext(nil, SplitTemplate)
	case cut > 0:
		r.setContext(slices.Concat(r.row.Tokens[:prompt], ids[cut:]), SplitThought)
	}
}

// setContext makes context, and not the row, the beginning of the next prompt. The first reason counts.
func (r *renderedRows) setContext(context []int32, reason SplitReason) {
	r.context = context
	if r.splitReason == "" {
		r.splitReason = reason
	}
}

// split closes the row and begins a new one with the context.
func (r *renderedRows) split() {
	if r.splits == nil {
		r.splits = map[SplitReason]int{}
	}
	r.splits[r.splitReason]++
	r.closed = append(r.closed, r.row)
	r.row = Row{WithoutLogprobs: r.row.WithoutLogprobs}
	r.row.addPrompt(r.context)
}

// rows returns copies of all rows.
func (r *renderedRows) rows() []Row {
	if len(r.row.Tokens) == 0 {
		return nil
	}
	rows := make([]Row, 0, len(r.closed)+1)
	for _, row := range r.closed {
		rows = append(rows, row.clone())
	}
	return append(rows, r.row.clone())
}

func finite(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
