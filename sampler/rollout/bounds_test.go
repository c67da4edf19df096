package rollout_test

import (
	"context"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// A first prompt that does not fit is a failure: an episode without a turn must
// not be stored as finished.
func TestFirstPromptThatDoesNotFit(t *testing.T) {
	d, b := newDriver(t, corridors(9), samplertest.Say("pull jade"))
	s := spec()
	s.MaxPrompt = 5
	got := d.Run(t.Context(), s)
	if !got.Failed() || !strings.Contains(got.Err, "the first prompt does not fit into the context") ||
		!strings.Contains(got.Err, "5 allowed") || len(b.Calls()) != 0 {
		t.Errorf("stop %s, %q, %d requests", got.Stop, got.Err, len(b.Calls()))
	}
}

// Rewards that overflow when they are added, and observations of any size, fail
// the episode with the value.
func TestWhatAnEnvironmentAnswersIsBounded(t *testing.T) {
	f := func(want string, step envs.Step) {
		t.Helper()
		w := &corridor{n: 9}
		w.step = func(context.Context, int, string) (envs.Step, error) { return step, nil }
		d, _ := newDriver(t, single(w), samplertest.Say("pull jade"))
		got := d.Run(t.Context(), spec())
		if !got.Failed() || !strings.Contains(got.Err, want) || len(got.Turns) > 1 {
			t.Errorf("stop %s, %q, want %q", got.Stop, got.Err, want)
		}
	}
	f("the sum of rewards is 1e+308", envs.Step{Reward: 1e308})
	f("the sum of rewards is 1.6e+30 and the score 0, beyond ±1e+30", envs.Step{Reward: 8e29})
	f("the score -1e+300", envs.Step{Score: -1e300})
	f("an observation of 5000000 bytes", envs.Step{Observation: envs.Observation{State: strings.Repeat("x", 5_000_000)}})

	w := &corridor{n: 9}
	w.reset = func(context.Context) (envs.Observation, error) {
		return envs.Observation{Feedback: strings.Repeat("x", 5_000_000)}, nil
	}
	d, _ := newDriver(t, single(w), samplertest.Say("pull jade"))
	if got := d.Run(t.Context(), spec()); !got.Failed() || !strings.Contains(got.Err, "an observation of 5000000 bytes") {
		t.Errorf("reset: %s, %.200s", got.Stop, got.Err)
	}
}

// wordy answers with more text than was asked for.
type wordy struct {
	sampler.Backend
	bytes int
}

func (w wordy) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	c, err := w.Backend.Sample(ctx, p, r)
	c.Text = strings.Repeat("x", w.bytes)
	return c, err
}

// An answer is bounded by the tokens that were asked for.
func TestAnswerLongerThanAskedFor(t *testing.T) {
	d, b := newDriver(t, corridors(2), samplertest.Say("pull jade"))
	s := spec()
	s.MaxTokens = 16
	d.Backend = wordy{b, 10 << 20}
	if got := d.Run(t.Context(), s); !got.Failed() ||
		!strings.Contains(got.Err, "10485760 bytes, but 16 tokens were asked for") {
		t.Errorf("stop %s, %.200q", got.Stop, got.Err)
	}
	d.Backend = wordy{b, 16 << 10}
	if got := d.Run(t.Context(), s); got.Stop != rollout.StopTerminated {
		t.Errorf("an answer of 1 KB per token: %s, %.200q", got.Stop, got.Err)
	}
}
