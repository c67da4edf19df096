package fleet

import (
	"context"
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler"
)

// CanaryText is an ordinary text for a canary.
const CanaryText = "The quick brown fox opens a door."

// canaryTokens is the length of the answer to the canary.
const canaryTokens = 4

// An answer is the greedy answer of a version to the canary, with log-probs in
// nats.
type answer struct {
	ids      []int32
	logprobs []float32
}

// maxDiff returns the largest difference of log-probs up to the first id that
// differs. Such an id is a near tie, and the ids after it have different
// prompts. Unknown log-probs do not count; if there are no others, maxDiff returns NaN.
func (a *answer) maxDiff(other *answer) float64 {
	largest := math.NaN()
	for i := range min(len(a.ids), len(other.ids)) {
		d := math.Abs(float64(a.logprobs[i]) - float64(other.logprobs[i]))
		if math.IsNaN(largest) || d > largest {
			largest = d
		}
		if a.ids[i] != other.ids[i] {
			break
		}
	}
	return largest
}

// verify lets a version answer the canary on a replica. While the version is
// published with a Score, verify compares the answer with the trainer's
// log-probs. Later, and without a Score, it compares the answer with the
// version's first answer.
func (r *replica) verify(ctx context.Context, v *version) error {
	now, err := r.askCanary(ctx, v)
	if err == nil {
		err = r.b.compare(ctx, v, now)
	}
	if err != nil {
		return fmt.Errorf("verify %s: %w", v.policy.Name, err)
	}
	return nil
}

func (r *replica) askCanary(ctx context.Context, v *version) (*answer, error) {
	limit := r.b.cfg.RequestTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer to the canary within %v", limit))
	defer cancel()
	c, err := r.complete(ctx, v, sampler.Request{Prompt: r.b.canaryPrompt, MaxTokens: canaryTokens})
	return &answer{c.IDs, c.Logprobs}, err
}

// compare returns an error if an answer to the canary shows that it was not
// computed from the version's weights.
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
	scores, err := trainer.ScoreAfter(ctx, b.canaryPrompt, now.ids)
	if err != nil {
		return err
	}
	want := &answer{now.ids, scores}
	if err := b.withinTolerance(now, want, "the trainer's"); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !v.verified {
		v.first, v.verified = want, true
	}
	return nil
}

func (b *Backend) withinTolerance(got, want *answer, reference string) error {
	d := got.maxDiff(want)
	if math.IsNaN(d) {
		return fmt.Errorf("%w: no log-prob of the answer is known", sampler.ErrCanary)
	}
	if d > b.cfg.Tolerance {
		return fmt.Errorf("%w: log-probs differ from %s by %.3g (tolerance %.3g)\n  hint: %s",
			sampler.ErrCanary, reference, d, b.cfg.Tolerance,
			"the adapter may not be applied, the base model or the adapter file may be another one, or a cache is stale: "+
				"restart the server with the model and flags of the others; "+
				"if the server is right and computes in low precision, raise sampler.canary_tolerance")
	}
	return nil
}
