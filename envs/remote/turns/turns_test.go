package turns

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
)

func TestTextsAndScores(t *testing.T) {
	var turns Turns
	if o := turns.First(""); o.State != Blank {
		t.Errorf("first state %q", o.State)
	}
	f := func(a Answer, want envs.Step) {
		t.Helper()
		got, err := turns.Next(a)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	f(Answer{State: "hall", Reward: 2}, envs.Step{Observation: envs.Observation{State: "hall"}, Reward: 2, Score: 2})
	f(Answer{Feedback: "pushed", Reward: 3, Cumulative: true},
		envs.Step{Observation: envs.Observation{Feedback: "pushed", State: Blank}, Reward: 1, Score: 3})
	refused := envs.Step{Observation: envs.Observation{Feedback: "what?", State: Blank}, Score: 3, Invalid: true}
	if diff := cmp.Diff(refused, turns.Refused("what?")); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	score := 40.0
	f(Answer{Feedback: "out", State: "meadow", Score: &score, Truncated: true},
		envs.Step{Observation: envs.Observation{Feedback: "out\nmeadow"}, Score: 40, Truncated: true})
}

func TestNumbersMustBeFinite(t *testing.T) {
	bad := math.NaN()
	for _, a := range []Answer{{Reward: math.Inf(1)}, {Score: &bad}} {
		if _, err := new(Turns).Next(a); err == nil {
			t.Errorf("%+v was taken", a)
		}
	}
}

// Five consecutive errors break the environment. Errors between good answers do
// not.
func TestErrorsOfUnknownOrigin(t *testing.T) {
	var turns Turns
	turns.First("hall")
	for round := range 3 {
		for range maxErrors - 1 {
			if step, err := turns.MaybeRefused("boom"); err != nil || step.Observation.State != "hall" {
				t.Fatalf("round %d: step %+v, error %v", round, step, err)
			}
		}
		if _, err := turns.Next(Answer{State: "hall"}); err != nil {
			t.Fatal(err)
		}
	}
	for range maxErrors - 1 {
		_, _ = turns.MaybeRefused("boom")
	}
	if _, err := turns.MaybeRefused("boom"); !errors.Is(err, ErrBroken) {
		t.Errorf("error %v, want ErrBroken", err)
	}
}
