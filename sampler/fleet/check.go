package fleet

import (
	"context"
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler"
)

// checkTokens is the length of the answer to the check.
const checkTokens = 4

// An answer is what a version answers to the check, with log-probs in nats.
type answer struct {
	ids      []int32
	logprobs []float32
}

// maxDiff is the largest difference of log-probs up to the first id that
// differs. Different ids there are a near tie, and the ids after it are answers
// to different prompts.
func (a *answer) maxDiff(other *answer) (largest float64) {
	for i := range min(len(a.ids), len(other.ids)) {
		largest = max(largest, math.Abs(float64(a.logprobs[i])-float64(other.logprobs[i])))
		if a.ids[i] != other.ids[i] {
			break
		}
	}
	return largest
}

// verify lets a version answer the check on a replica. While the version is
// published with a Score, the answer is compared with the trainer's log-probs.
// Later, and without a Score, it is compared with the version's first answer.
func (r *replica) verify(ctx context.Context, v *version) error {
	now, err := r.askCheck(ctx, v)
	if err == nil {
		err = r.b.compare(ctx, v, now)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", v.policy.Name, err)
	}
	return nil
}

func (r *replica) askCheck(ctx context.Context, v *version) (*answer, error) {
	limit := r.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer to the check within %v", limit))
	defer cancel()
	c, err := r.complete(ctx, v, sampler.Request{Prompt: r.b.check, MaxTokens: checkTokens})
	return &answer{c.IDs, c.Logprobs}, err
}

// compare returns an error if an answer to the check was not computed from the
// version's weights, as far as the answer shows.
func (b *Backend) compare(ctx context.Context, v *version, now *answer) error {
	b.mu.Lock()
	trainer := v.trainer
	b.mu.Unlock()
	if trainer.Score == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if v.first == nil {
			v.first = now
		}
		return b.withinTolerance(now, v.first, "the version's first answer")
	}
	scores, err := trainer.ScoreAfter(ctx, b.check, now.ids)
	if err != nil {
		return err
	}
	right := &answer{now.ids, scores}
	if err := b.withinTolerance(now, right, "the trainer's"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !v.verified {
		v.first, v.verified = right, true
	}
	return nil
}

func (b *Backend) withinTolerance(now, right *answer, whose string) error {
	if d := now.maxDiff(right); d > b.cfg.Tolerance {
		return fmt.Errorf("%w: log-probs differ from %s by %.3g (tolerance %.3g)\n  hint: %s",
			sampler.ErrCanary, whose, d, b.cfg.Tolerance,
			"likely an adapter that is not applied, another base model, a changed adapter file, or a stale cache: "+
				"restart the server with the model and flags of the others; "+
				"if all are right and compute in low precision, raise sampler.canary_tolerance")
	}
	return nil
}
