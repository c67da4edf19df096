package sampler_test

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// canaryPrompt is the prompt of the canary in these tests.
var canaryPrompt = []int32{samplertest.Start, 100, samplertest.End}

// learning is a script whose probabilities change with every version.
func learning(version int, _ []int32) []samplertest.Choice {
	return []samplertest.Choice{
		{Text: "pull jade", Weight: 1 + float64(version)}, {Text: "pull bone", Weight: 1}, {Text: "wait", Weight: 1},
	}
}

// withCanary wraps a backend with the canary and collects the canary's reports.
func withCanary(b sampler.Backend) (sampler.Backend, *[]sampler.Canary) {
	var reports []sampler.Canary
	report := func(c sampler.Canary) { reports = append(reports, c) }
	return sampler.WithCanary(b, canaryPrompt, 1e-4, report), &reports
}

// adapterWithScore returns an adapter whose Score agrees with the script. The canary's prompt has no chat messages, so
// Score puts the opening of an assistant's message in its place.
func adapterWithScore(b *samplertest.Scripted, version int) sampler.Adapter {
	prompt := b.Encode("assistant\n")
	return sampler.Adapter{Version: version, Score: func(_ context.Context, tokens []int32) ([]float32, error) {
		chat := slices.Concat([]int32{samplertest.Start}, prompt, tokens[3:])
		scores := b.Policy.Score(version, chat)
		out := make([]float32, len(tokens)-1)
		copy(out[2:], scores[len(prompt):])
		return out, nil
	}}
}

func TestCanaryAcceptsVersionsThatMatchTheTrainer(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
	p, reports := withCanary(b)
	for version := range 3 {
		if got, err := p.Publish(t.Context(), adapterWithScore(b, version)); err != nil || got.Version != version {
			t.Fatalf("publish %d: %+v, %v", version, got, err)
		}
	}
	if !slices.Equal(b.Served(), []int{0, 1, 2}) || len(*reports) != 3 {
		t.Fatalf("served %v, %d reports", b.Served(), len(*reports))
	}
	for i, c := range *reports {
		if c.Version != i || c.Tokens == 0 || c.MaxDiff > 1e-6 || c.MeanDiff > c.MaxDiff || (c.Moved > 0.01) != (i > 0) {
			t.Errorf("report %+v", c)
		}
	}
}

func TestCanarySkipsVersionsWithoutScore(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
	p, reports := withCanary(b)
	if _, err := p.Publish(t.Context(), sampler.Adapter{}); err != nil || len(*reports) != 0 || len(b.Calls()) != 0 {
		t.Errorf("%v, %d reports, %d calls", err, len(*reports), len(b.Calls()))
	}
}

// If a published version is not the trained one, Publish fails and retires it.
// failingPublish returns a function that checks the error of publishing a changed version 1. The version must not be
// served afterwards.
func failingPublish(t *testing.T) func(want string, canary bool, change func(*samplertest.Scripted, *sampler.Adapter)) {
	return func(want string, canary bool, change func(*samplertest.Scripted, *sampler.Adapter)) {
		t.Helper()
		b := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
		p, _ := withCanary(b)
		if _, err := p.Publish(t.Context(), adapterWithScore(b, 0)); err != nil {
			t.Fatal(err)
		}
		a := adapterWithScore(b, 1)
		change(b, &a)
		_, err := p.Publish(t.Context(), a)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, sampler.ErrCanary) != canary {
			t.Errorf("want %q, got %v", want, err)
		}
		if !slices.Equal(b.Served(), []int{0}) {
			t.Errorf("%s: served %v", want, b.Served())
		}
	}
}

func TestCanaryRetiresVersionsThatDoNotMatch(t *testing.T) {
	f := failingPublish(t)
	const notApplied = "adapter not applied: version 1 answers exactly as version 0"
	f(notApplied, true, func(b *samplertest.Scripted, _ *sampler.Adapter) {
		b.Applied = func(int) int { return 0 }
	})
	f("version 1: log-probs differ from the trainer's by", true, func(b *samplertest.Scripted, _ *sampler.Adapter) {
		b.Applied = func(int) int { return 7 }
	})
	f("no log-probs for version 1", true, func(b *samplertest.Scripted, _ *sampler.Adapter) {
		b.AfterSample = func(c *sampler.Completion) {
			for i := range c.Logprobs {
				c.Logprobs[i] = float32(math.NaN())
			}
		}
	})
	f("version 0 answered", true, func(b *samplertest.Scripted, _ *sampler.Adapter) {
		b.AfterSample = func(c *sampler.Completion) { c.Policy.Version = 0 }
	})
}

func TestCanaryRetiresVersionsThatCannotBeVerified(t *testing.T) {
	f := failingPublish(t)
	f("score with the trainer: gone", false, func(_ *samplertest.Scripted, a *sampler.Adapter) {
		a.Score = func(context.Context, []int32) ([]float32, error) { return nil, errors.New("gone") }
	})
	f("1 values for", false, func(_ *samplertest.Scripted, a *sampler.Adapter) {
		a.Score = func(context.Context, []int32) ([]float32, error) { return []float32{0}, nil }
	})
	f("log-prob NaN", false, func(_ *samplertest.Scripted, a *sampler.Adapter) {
		a.Score = func(_ context.Context, tokens []int32) ([]float32, error) {
			return slices.Repeat([]float32{float32(math.NaN())}, len(tokens)-1), nil
		}
	})
	f("connection reset", false, func(b *samplertest.Scripted, _ *sampler.Adapter) {
		b.BeforeSample = func(context.Context, sampler.Policy, sampler.Request) error {
			return errors.New("connection reset")
		}
	})
}

// If the context ends during the verification, Publish retires the version.
func TestCancelledCanaryRetiresTheVersion(t *testing.T) {
	b := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
	p, _ := withCanary(b)
	ctx, cancel := context.WithCancel(t.Context())
	b.BeforeSample = func(ctx context.Context, _ sampler.Policy, _ sampler.Request) error { cancel(); return ctx.Err() }
	if _, err := p.Publish(ctx, adapterWithScore(b, 1)); !errors.Is(err, context.Canceled) || len(b.Served()) != 0 {
		t.Errorf("%v, served %v", err, b.Served())
	}
}

// The trainer of a large model on a busy machine takes its time: its own deadline counts.
func TestCanaryWaitsForASlowTrainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
		p, reports := withCanary(b)
		adapter := adapterWithScore(b, 1)
		score := adapter.Score
		adapter.Score = func(ctx context.Context, tokens []int32) ([]float32, error) {
			select {
			case <-time.After(10 * time.Minute):
				return score(ctx, tokens)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		if _, err := p.Publish(t.Context(), adapter); err != nil {
			t.Fatal(err)
		}
		if got := (*reports)[0].Took; got != 20*time.Minute {
			t.Errorf("verified in %v, want two scores of 10 minutes", got)
		}
	})
}

// A wide tolerance, for servers of low precision, does not hide an adapter that the server never applies.
func TestCanaryDetectsUnappliedAdaptersDespiteAWideTolerance(t *testing.T) {
	neverLearns := func(int, []int32) []samplertest.Choice { return learning(0, nil) }
	b := samplertest.NewScripted(samplertest.NewTokenizer(), neverLearns)
	trainer := samplertest.NewScripted(samplertest.NewTokenizer(), learning)
	p := sampler.WithCanary(b, canaryPrompt, 10, nil)
	if _, err := p.Publish(t.Context(), adapterWithScore(trainer, 0)); err != nil {
		t.Fatal(err)
	}
	_, err := p.Publish(t.Context(), adapterWithScore(trainer, 1))
	if !errors.Is(err, sampler.ErrCanary) || !strings.Contains(err.Error(), "adapter not applied") {
		t.Errorf("%v", err)
	}
}
