package fleet

import (
	"context"
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler"
)

// checkTokens is the length of a check's answer.
const checkTokens = 4

// answer is what a version said to the check.
type answer struct {
	ids      []int32
	logprobs []float32
}

// prove lets a version answer the check on a replica. The first answer is
// remembered, every other must be like it.
func (r *replica) prove(ctx context.Context, v *version) error {
	b := r.b
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.RequestTimeout, fmt.Errorf("no answer to the check within %v", b.cfg.RequestTimeout))
	defer cancel()
	c, err := r.complete(ctx, v, sampler.Request{Prompt: b.check, MaxTokens: checkTokens})
	if err != nil {
		return fmt.Errorf("check %s: %w", v.policy.Name, err)
	}
	now := &answer{c.IDs, c.Logprobs}
	b.mu.Lock()
	defer b.mu.Unlock()
	if v.first == nil {
		v.first = now
		return nil
	}
	if err := now.like(v.first, b.cfg.Tolerance); err != nil {
		return fmt.Errorf("check %s: %w", v.policy.Name, err)
	}
	return nil
}

// like is nil if both were computed from the same weights, as far as the
// answers tell.
func (a *answer) like(first *answer, tolerance float64) error {
	for i := range min(len(a.ids), len(first.ids)) {
		d := math.Abs(float64(a.logprobs[i]) - float64(first.logprobs[i]))
		switch {
		case d > tolerance:
			return fmt.Errorf("log-probs differ from the version's first answer by %.3g\n  hint: %s", d,
				"another base model, a file of the adapter that was changed, or a stale cache: start the server again with the model and flags of the others")
		case a.ids[i] != first.ids[i]: // a near tie; what follows differs rightly
			return nil
		}
	}
	return nil
}
