package sampler

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Canary is the result of verifying one version: how far the server's log-probs of fixed tokens are from the trainer's.
type Canary struct {
	Version  int     `json:"version"`
	Tokens   int     `json:"tokens"`    // number of log-probs compared
	MeanDiff float64 `json:"mean_diff"` // mean |server − trainer| in nats
	MaxDiff  float64 `json:"max_diff"`  // largest |server − trainer| in nats
	// Moved is the largest change of the trainer's log-probs since the version before, in nats; 0 for the first.
	Moved float64       `json:"moved"`
	Took  time.Duration `json:"took"`
}

// ErrCanary is wrapped by Publish if the server's log-probs are not those of the published weights.
var ErrCanary = errors.New("canary")

const (
	canaryTokens = 8 // sampled per temperature
	// minVisibleChange is a change of log-probs in nats that a server of float32 shows.
	minVisibleChange = 1e-5
	canarySeed       = 20_010_911
	withdrawTimeout  = 2 * time.Minute
)

// WithCanary returns a backend that verifies every version before Publish returns it. The server samples after prompt,
// and its log-probs must equal the trainer's within tolerance (largest difference in nats). Otherwise the version is
// retired and Publish returns an [ErrCanary]. An adapter without Score is not verified. WithCanary calls report, if it
// is not nil, with every result, including failures.
func WithCanary(b Backend, prompt []int32, tolerance float64, report func(Canary)) Backend {
	if report == nil {
		report = func(Canary) {}
	}
	return &canaryBackend{Backend: b, prompt: slices.Clone(prompt), tolerance: tolerance, report: report}
}

type canaryBackend struct {
	Backend
	prompt    []int32
	tolerance float64
	report    func(Canary)

	mu   sync.Mutex // one verification at a time
	last *canaryRun // of the version before
}

// A canaryRun holds what one version sampled: one completion at each canary temperature.
type canaryRun struct {
	version int
	samples []Completion
	scores  [][]float32 // the trainer's log-probs, per sample and sampled id
}

// Publish publishes and verifies a version.
func (b *canaryBackend) Publish(ctx context.Context, a Adapter) (Policy, error) {
	policy, err := b.Backend.Publish(ctx, a)
	if err != nil || a.Score == nil {
		return policy, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.verify(ctx, a, policy); err != nil {
		err = fmt.Errorf("verify version %d: %w", a.Version, err)
		return Policy{}, errors.Join(err, b.withdraw(ctx, policy))
	}
	return policy, nil
}

// withdraw retires a version that failed its verification, even if ctx is done.
func (b *canaryBackend) withdraw(ctx context.Context, policy Policy) error {
	late := errors.New("retire took too long")
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), withdrawTimeout, late)
	defer cancel()
	return b.Retire(ctx, policy)
}

// verify samples from the new version, reports the comparison with the trainer and returns an error if they disagree.
// Each call has the deadline of the server or of the trainer: a large model on a busy machine takes minutes.
func (b *canaryBackend) verify(ctx context.Context, a Adapter, policy Policy) error {
	start := time.Now()
	run := &canaryRun{version: a.Version}
	for _, temperature := range []float64{0, 1} {
		if err := b.sample(ctx, a, policy, temperature, run); err != nil {
			return err
		}
	}
	c := Canary{Version: a.Version}
	c.Tokens, c.MeanDiff, c.MaxDiff = run.diff()
	var unchanged bool
	if b.last != nil && b.last.version != a.Version {
		var err error
		if c.Moved, unchanged, err = b.compareWithLast(ctx, a, run); err != nil {
			return err
		}
	}
	c.Took = time.Since(start)
	b.report(c)
	if err := b.judge(ctx, c, unchanged); err != nil {
		return err
	}
	b.last = run
	return nil
}

// judge returns an error if the result of a verification is bad.
func (b *canaryBackend) judge(ctx context.Context, c Canary, unchanged bool) error {
	switch {
	case c.Tokens == 0:
		return fmt.Errorf("%w: the server returned no log-probs for version %d", ErrCanary, c.Version)
	case unchanged:
		return fmt.Errorf("%w: adapter not applied: version %d answers exactly as version %d, although the trainer's "+
			"log-probs moved by %.3g\n  hint: check that the server loads the new file under the new name",
			ErrCanary, c.Version, b.last.version, c.Moved)
	case c.MaxDiff > b.tolerance:
		capabilities, err := b.Capabilities(ctx)
		cause := MismatchCause(c.MeanDiff, c.MaxDiff, capabilities)
		return errors.Join(fmt.Errorf("%w: version %d: log-probs differ from the trainer's by up to %.3g, on average %.3g "+
			"(tolerance %.3g); %s\n  hint: if model and adapter are right, sampler.canary_tolerance may be raised",
			ErrCanary, c.Version, c.MaxDiff, c.MeanDiff, b.tolerance, cause), err)
	}
	return nil
}

// sample adds one completion and the trainer's scores of it to run.
func (b *canaryBackend) sample(
	ctx context.Context, a Adapter, policy Policy, temperature float64, run *canaryRun,
) error {
	c, err := b.Sample(ctx, policy, Request{
		Prompt: b.prompt, MaxTokens: canaryTokens, Temperature: temperature, Seed: canarySeed, Session: "canary",
	})
	if err != nil {
		return err
	}
	if c.Policy.Version != a.Version || len(c.Logprobs) != len(c.IDs) {
		return fmt.Errorf("%w: version %d answered with %d ids and %d log-probs, want version %d",
			ErrCanary, c.Policy.Version, len(c.IDs), len(c.Logprobs), a.Version)
	}
	scores, err := a.ScoreAfter(ctx, b.prompt, c.IDs)
	if err != nil {
		return err
	}
	run.samples = append(run.samples, c)
	run.scores = append(run.scores, scores)
	return nil
}

// diff compares the server's log-probs with the trainer's. Tokens without a server log-prob (NaN) do not count.
func (r *canaryRun) diff() (tokens int, mean, largest float64) {
	for i, c := range r.samples {
		for k, l := range c.Logprobs {
			if !isFinite(l) {
				continue
			}
			d := math.Abs(float64(l) - float64(r.scores[i][k]))
			tokens++
			mean += d
			largest = math.Max(largest, d)
		}
	}
	return tokens, mean / float64(max(tokens, 1)), largest
}

// compareWithLast compares the new version with the version before, on the samples of the version before. moved is the
// largest change of the trainer's log-probs. unchanged reports that the trainer's log-probs moved by more than server
// and trainer differed before, but the server's did not: the server still serves the old weights.
func (b *canaryBackend) compareWithLast(
	ctx context.Context, a Adapter, run *canaryRun,
) (moved float64, unchanged bool, err error) {
	sameIDs, serverMoved := true, 0.0
	for i, old := range b.last.samples {
		scores, err := a.ScoreAfter(ctx, b.prompt, old.IDs)
		if err != nil {
			return 0, false, err
		}
		moved = math.Max(moved, maxDiff(scores, b.last.scores[i]))
		if sameIDs = sameIDs && slices.Equal(old.IDs, run.samples[i].IDs); sameIDs {
			serverMoved = math.Max(serverMoved, maxDiff(old.Logprobs, run.samples[i].Logprobs))
		}
	}
	_, _, before := b.last.diff()
	visible := math.Min(b.tolerance, 3*before+minVisibleChange)
	return moved, sameIDs && moved > visible && serverMoved <= moved/10, nil
}

// maxDiff returns the largest |a−b|. Values that are NaN in a or b do not count.
func maxDiff(a, b []float32) float64 {
	var largest float64
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); d > largest {
			largest = d
		}
	}
	return largest
}
