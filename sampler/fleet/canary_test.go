package fleet

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// answersWith answers every request with one token of this log-prob.
func answersWith(logprob float32) func(context.Context, string, sampler.Request) (Answer, error) {
	return func(_ context.Context, model string, r sampler.Request) (Answer, error) {
		a := firstID(model, r)
		a.Logprobs = []float32{logprob}
		return a, nil
	}
}

// scoredAs is the base model with a trainer that gives this log-prob.
func scoredAs(logprob float32, err error) sampler.Adapter {
	return sampler.Adapter{Score: func(_ context.Context, tokens []int32) ([]float32, error) {
		scores := make([]float32, len(tokens)-1)
		scores[len(scores)-1] = logprob
		return scores, err
	}}
}

// A version that was published without a Score is verified when it is published
// with one. All replicas are compared with the trainer, also if they agree.
func TestEveryReplicaIsComparedWithTheTrainer(t *testing.T) {
	f := func(name string, replicas []float32, trainer sampler.Adapter, want string) {
		t.Helper()
		var fakes []*fake
		for i, l := range replicas {
			fakes = append(fakes, &fake{name: string(rune('a' + i)), complete: answersWith(l)})
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
	f("right", []float32{-1, -1}, scoredAs(-1, nil), "")
	f("replicas differ by less than twice the tolerance", []float32{-1.009, -1}, scoredAs(-1.0045, nil), "")
	f("one is wrong", []float32{-1, -1.006}, scoredAs(-0.995, nil),
		"b: verify base: canary: log-probs differ from the trainer's by 0.011 (tolerance 0.01)\n  hint: ")
	f("all are wrong in the same way", []float32{-1, -1}, scoredAs(-1.04, nil), "differ from the trainer's by 0.04")
	f("no trainer", []float32{-1, -1}, scoredAs(-1, errors.New("the trainer ended")),
		"score with the trainer: the trainer ended")
}

// The trainer scores a version only while it is published: later it trains the
// next.
func TestTheTrainerScoresAVersionOnce(t *testing.T) {
	b, p := open(t, Config{}, &fake{name: "a"})
	defer b.Close()
	scored := 0
	a := scoredAs(-1, nil)
	score := a.Score
	a.Score = func(ctx context.Context, tokens []int32) ([]float32, error) { scored++; return score(ctx, tokens) }
	for range 3 {
		if _, err := b.Publish(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.replicas[0].verify(t.Context(), b.versions[p.Version]); err != nil || scored != 1 {
		t.Errorf("%v, the trainer scored %d times", err, scored)
	}
}

// What is unknown is no difference, and an answer without any known log-prob proves
// nothing.
func TestUnknownLogprobsOfACanary(t *testing.T) {
	nan := float32(math.NaN())
	f := func(want float64, ids []int32, got, other []float32) {
		t.Helper()
		d := (&answer{ids, got}).maxDiff(&answer{[]int32{1, 2, 3}, other})
		if d != want && !(math.IsNaN(d) && math.IsNaN(want)) {
			t.Errorf("%v, want %v", d, want)
		}
	}
	f(0.5, []int32{1, 2, 3}, []float32{nan, -1.5, nan}, []float32{-1, -1, -1})
	f(0.5, []int32{1, 2, 3}, []float32{-1.5, nan, -1}, []float32{-1, -1, -1})
	f(math.NaN(), []int32{1, 2, 3}, []float32{nan, nan, -1}, []float32{-1, -1, nan})
	f(math.NaN(), []int32{1, 9, 3}, []float32{nan, nan, -1}, []float32{-1, -1, -1})
	b := &Backend{cfg: Config{Tolerance: 1}}
	if err := b.withinTolerance(&answer{[]int32{1}, []float32{nan}}, &answer{[]int32{1}, []float32{-1}}, "x"); err == nil {
		t.Error("an answer without log-probs passes the canary")
	}
}

// A log-prob that the server could not compute is NaN. One above 0 is an error, and so
// is an answer of several tokens without any log-prob.
func TestUnknownLogprobsOfAnAnswer(t *testing.T) {
	f := func(accepted bool, logprobs ...float32) {
		t.Helper()
		fk := &fake{name: "a", complete: func(_ context.Context, model string, r sampler.Request) (Answer, error) {
			a := firstID(model, r)
			if r.MaxTokens == 3 {
				a.IDs, a.Logprobs = []int32{1, 1, 1}[:len(logprobs)], slices.Clone(logprobs)
				a.Finish = sampler.FinishStop
			}
			return a, nil
		}}
		b, p := open(t, Config{}, fk)
		defer b.Close()
		q := request
		q.MaxTokens = 3
		c, err := b.Sample(t.Context(), p, q)
		if (err == nil) != accepted {
			t.Errorf("%v: %v", logprobs, err)
		}
		if !accepted {
			return
		}
		for i, l := range logprobs {
			if known := l > -9999; known == math.IsNaN(float64(c.Logprobs[i])) {
				t.Errorf("%v became %v", logprobs, c.Logprobs)
			}
		}
	}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	f(true, -1, nan, -2)
	f(true, -inf, -1, -9999)
	f(true, nan)
	f(false, nan, -inf)
	f(false, -1, inf)
	f(false, -1, 0.5)
}
