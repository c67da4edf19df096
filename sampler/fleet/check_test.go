package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// says answers every request with one token of a log-prob.
func says(logprob float32) func(context.Context, string, sampler.Request) (Answer, error) {
	return func(_ context.Context, model string, r sampler.Request) (Answer, error) {
		a := writes(model, r)
		a.Logprobs = []float32{logprob}
		return a, nil
	}
}

// trained is the base as the trainer has it.
func trained(logprob float32, err error) sampler.Adapter {
	return sampler.Adapter{Score: func(_ context.Context, tokens []int32) ([]float32, error) {
		scores := make([]float32, len(tokens)-1)
		scores[len(scores)-1] = logprob
		return scores, err
	}}
}

// A version that is published without a trainer is verified when it is published
// with one: on every replica, also if all are wrong alike.
func TestEveryReplicaIsHeldAgainstTheTrainer(t *testing.T) {
	f := func(name string, replicas []float32, trainer sampler.Adapter, want string) {
		t.Helper()
		var fakes []*fake
		for i, l := range replicas {
			fakes = append(fakes, &fake{name: string(rune('a' + i)), complete: says(l)})
		}
		b, p := open(t, Config{Tolerance: 0.01}, fakes...)
		defer b.Close()
		_, err := b.Publish(t.Context(), trainer)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if _, err := b.Sample(t.Context(), p, request); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	f("right", []float32{-1, -1}, trained(-1, nil), "")
	f("as far apart as twice the tolerance", []float32{-1.009, -1}, trained(-1.0045, nil), "")
	f("one is wrong", []float32{-1, -1.006}, trained(-0.995, nil),
		"b: check base: canary: log-probs differ from the trainer's by 0.011 (tolerance 0.01)\n  hint: ")
	f("all are wrong alike", []float32{-1, -1}, trained(-1.04, nil), "differ from the trainer's by 0.04")
	f("no trainer", []float32{-1, -1}, trained(-1, errors.New("it is gone")), "score with the trainer: it is gone")
}

// The trainer is asked about a version once: later it trains the next.
func TestTheTrainerSpeaksForOneVersion(t *testing.T) {
	b, p := open(t, Config{}, &fake{name: "a"})
	defer b.Close()
	asked := 0
	a := trained(-1, nil)
	score := a.Score
	a.Score = func(ctx context.Context, tokens []int32) ([]float32, error) { asked++; return score(ctx, tokens) }
	for range 3 {
		if _, err := b.Publish(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.replicas[0].verify(t.Context(), b.versions[p.Version]); err != nil || asked != 1 {
		t.Errorf("%v, the trainer was asked %d times", err, asked)
	}
}
