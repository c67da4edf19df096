package fleet

import (
	"context"
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler"
)

// checkTokens is the length of a check's answer.
const checkTokens = 4

// answer is what a version says to the check, with log-probs in nats.
type answer struct {
	ids      []int32
	logprobs []float32
}

// from is the largest difference of log-probs up to the first id that differs:
// that is a near tie, and what follows differs rightly.
func (a *answer) from(other *answer) (largest float64) {
	for i := range min(len(a.ids), len(other.ids)) {
		largest = max(largest, math.Abs(float64(a.logprobs[i])-float64(other.logprobs[i])))
		if a.ids[i] != other.ids[i] {
			break
		}
	}
	return largest
}

// prove lets a version answer the check on a replica. While the trainer speaks
// for the version its log-probs decide, on every replica; later, and without a
// trainer, what was answered first.
func (r *replica) prove(ctx context.Context, v *version) error {
	now, err := r.ask(ctx, v)
	if err == nil {
		err = r.b.believe(ctx, v, now)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", v.policy.Name, err)
	}
	return nil
}

// ask puts the check to a replica.
func (r *replica) ask(ctx context.Context, v *version) (*answer, error) {
	limit := r.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer to the check within %v", limit))
	defer cancel()
	c, err := r.complete(ctx, v, sampler.Request{Prompt: r.b.check, MaxTokens: checkTokens})
	return &answer{c.IDs, c.Logprobs}, err
}

// believe is nil if an answer to the check was computed from the version's
// weights, as far as it tells.
func (b *Backend) believe(ctx context.Context, v *version, now *answer) error {
	b.mu.Lock()
	trainer := v.trainer
	b.mu.Unlock()
	if trainer.Score == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if v.first == nil {
			v.first = now
		}
		return b.near(now, v.first, "the version's first answer")
	}
	scores, err := trainer.ScoreAfter(ctx, b.check, now.ids)
	if err != nil {
		return err
	}
	right := &answer{now.ids, scores}
	if err := b.near(now, right, "the trainer's"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !v.proved {
		v.first, v.proved = right, true
	}
	return nil
}

func (b *Backend) near(now, right *answer, whose string) error {
	if d := now.from(right); d > b.cfg.Tolerance {
		return fmt.Errorf("%w: log-probs differ from %s by %.3g (tolerance %.3g)\n  hint: %s", sampler.ErrCanary, whose, d, b.cfg.Tolerance,
			"an adapter that is not applied, another base model, a file of the adapter that was changed, or a stale cache: "+
				"start the server again with the model and flags of the others; if all are right and compute in low precision, raise sampler.canary_tolerance")
	}
	return nil
}
