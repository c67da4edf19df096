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

// Canary is the outcome of verifying one version.
type Canary struct {
	Version  int           `json:"version"`
	Tokens   int           `json:"tokens"`    // compared
	MeanDiff float64       `json:"mean_diff"` // mean |server − trainer| in nats
	MaxDiff  float64       `json:"max_diff"`  // largest of them
	Moved    float64       `json:"moved"`     // the trainer's, since the version before; 0 for the first
	Took     time.Duration `json:"took"`
}

// ErrCanary is wrapped by Publish when the server's log-probs are not those of
// the published weights.
var ErrCanary = errors.New("canary")

const (
	canaryTokens = 8
	// leastMove is a change in nats that a server of float32 shows.
	leastMove     = 1e-5
	canarySeed    = 20_010_911
	canaryTimeout = 2 * time.Minute
)

// WithCanary lets a version of b be used only after the server's log-probs, on
// what it samples after prompt, agreed with the trainer's within tolerance
// (nats, largest difference). Otherwise the version is retired and Publish is
// an [ErrCanary]. An adapter without Score is not verified. report, if not nil,
// is called with every outcome, failures included.
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

// A canaryRun is what one version answered on the canary's two samples.
type canaryRun struct {
	version int
	samples []Completion
	scores  [][]float32 // the trainer's, per sample and sampled id
}

// Publish publishes and verifies.
func (p *canaryBackend) Publish(ctx context.Context, a Adapter) (Policy, error) {
	policy, err := p.Backend.Publish(ctx, a)
	if err != nil || a.Score == nil {
		return policy, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := WithDeadline(ctx, canaryTimeout, fmt.Sprintf("verify version %d", a.Version),
		func(ctx context.Context) error {
			return p.verify(ctx, a, policy)
		}); err != nil {
		return Policy{}, errors.Join(err, p.withdraw(ctx, policy))
	}
	return policy, nil
}

// withdraw retires a version that was not verified, also when ctx is done.
func (p *canaryBackend) withdraw(ctx context.Context, policy Policy) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), canaryTimeout, errors.New("retire took too long"))
	defer cancel()
	return p.Retire(ctx, policy)
}

func (p *canaryBackend) verify(ctx context.Context, a Adapter, policy Policy) error {
	start := time.Now()
	now := &canaryRun{version: a.Version}
	for _, temperature := range []float64{0, 1} {
		if err := p.sample(ctx, a, policy, temperature, now); err != nil {
			return err
		}
	}
	c := Canary{Version: a.Version}
	c.Tokens, c.MeanDiff, c.MaxDiff = now.diff()
	var stuck bool
	if p.last != nil && p.last.version != a.Version {
		var err error
		if c.Moved, stuck, err = p.compareWithLast(ctx, a, now); err != nil {
			return err
		}
	}
	c.Took = time.Since(start)
	p.report(c)
	switch {
	case c.Tokens == 0:
		return fmt.Errorf("%w: the server gave no log-probs for version %d", ErrCanary, a.Version)
	case stuck:
		return fmt.Errorf("%w: adapter not applied: version %d answers exactly as version %d, although the trainer's "+
			"log-probs moved by %.3g; %s",
			ErrCanary, a.Version, p.last.version, c.Moved, "does the server load the new file, and under the new name?")
	case c.MaxDiff > p.tolerance:
		can, err := p.Capabilities(ctx)
		return errors.Join(fmt.Errorf(
			"%w: version %d: log-probs differ from the trainer's by %.3g at most and %.3g on average (tolerance %.3g); %s\n"+
				"  hint: if model and adapter are right, sampler.canary_tolerance may be raised",
			ErrCanary, a.Version, c.MaxDiff, c.MeanDiff, p.tolerance, MismatchCause(c.MeanDiff, c.MaxDiff, can.Hints)), err)
	}
	p.last = now
	return nil
}

// sample lets the server write after the prompt and the trainer score it.
func (p *canaryBackend) sample(
	ctx context.Context, a Adapter, policy Policy, temperature float64, now *canaryRun,
) error {
	c, err := p.Sample(ctx, policy, Request{
		Prompt: p.prompt, MaxTokens: canaryTokens, Temperature: temperature, Seed: canarySeed, Session: "canary",
	})
	if err != nil {
		return err
	}
	if c.Policy.Version != a.Version || len(c.Logprobs) != len(c.IDs) {
		return fmt.Errorf("%w: version %d answered with %d ids and %d log-probs, asked version %d",
			ErrCanary, c.Policy.Version, len(c.IDs), len(c.Logprobs), a.Version)
	}
	scores, err := a.ScoreAfter(ctx, p.prompt, c.IDs)
	if err != nil {
		return err
	}
	now.samples = append(now.samples, c)
	now.scores = append(now.scores, scores)
	return nil
}

// diff compares server and trainer where the server gave a value.
func (f *canaryRun) diff() (tokens int, mean, largest float64) {
	for i, c := range f.samples {
		for k, l := range c.Logprobs {
			if !isFinite(l) {
				continue
			}
			d := math.Abs(float64(l) - float64(f.scores[i][k]))
			tokens++
			mean += d
			largest = math.Max(largest, d)
		}
	}
	return tokens, mean / float64(max(tokens, 1)), largest
}

// compareWithLast compares the new version with the one before, on the samples of the
// one before. moved is the largest change of the trainer's values; stuck says
// that the trainer's moved, further than the two disagreed before, and the
// server's did not.
func (p *canaryBackend) compareWithLast(ctx context.Context, a Adapter, now *canaryRun) (
	moved float64, stuck bool, err error,
) {
	same, server := true, 0.0
	for i, old := range p.last.samples {
		scores, err := a.ScoreAfter(ctx, p.prompt, old.IDs)
		if err != nil {
			return 0, false, err
		}
		moved = math.Max(moved, maxDiff(scores, p.last.scores[i]))
		if same = same && slices.Equal(old.IDs, now.samples[i].IDs); same {
			server = math.Max(server, maxDiff(old.Logprobs, now.samples[i].Logprobs))
		}
	}
	_, _, before := p.last.diff()
	visible := math.Min(p.tolerance, 3*before+leastMove)
	return moved, same && moved > visible && server <= moved/10, nil
}

// maxDiff is the largest |a−b|; values that are NaN in either do not count.
func maxDiff(a, b []float32) float64 {
	var largest float64
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); d > largest {
			largest = d
		}
	}
	return largest
}
