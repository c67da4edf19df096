package scienceworld

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/empo2/empo2/envs"
	"github.com/google/go-cmp/cmp"
)

func newFaults(left map[string]int) *faults {
	if left == nil {
		left = make(map[string]int)
	}
	return &faults{left: left}
}

func scores(steps []envs.Step) (rewards, scores []float64) {
	for _, s := range steps {
		rewards, scores = append(rewards, s.Reward), append(scores, s.Score)
	}
	return rewards, scores
}

func TestRewardsAreScoreDifferences(t *testing.T) {
	f := fakeFamily(t, Config{}, newFaults(nil))
	defer f.Close()
	steps, err := play(t, f, "boil/variation-3", "good", "open door", "good", "bad", "good")
	if err != nil {
		t.Fatal(err)
	}
	rewards, scores := scores(steps)
	if d := cmp.Diff([]float64{10, 0, 10, -120}, rewards); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]float64{10, 10, 20, -100}, scores); d != "" {
		t.Error(d)
	}
	last := steps[len(steps)-1]
	if !last.Terminated || last.Truncated || last.Success || last.Observation.State != "" {
		t.Errorf("a failure ends the episode without success: %+v", last)
	}
}

func TestSuccessEndsTheEpisode(t *testing.T) {
	f := fakeFamily(t, Config{}, newFaults(nil))
	defer f.Close()
	steps, err := play(t, f, "boil/variation-0", strings.Fields(strings.Repeat("good ", 12))...)
	if err != nil {
		t.Fatal(err)
	}
	if last := steps[len(steps)-1]; len(steps) != 10 || !last.Success || !last.Terminated || last.Score != 100 {
		t.Errorf("%d steps, last %+v", len(steps), last)
	}
}

func TestLimitsTruncate(t *testing.T) {
	f := func(c Config, action string, want int) {
		t.Helper()
		fam := fakeFamily(t, c, newFaults(nil))
		defer fam.Close()
		steps, err := play(t, fam, "boil/variation-0", strings.Split(strings.Repeat(action+",", 50), ",")...)
		if err != nil {
			t.Fatal(err)
		}
		if last := steps[len(steps)-1]; len(steps) != want || !last.Truncated || last.Terminated {
			t.Errorf("%d steps, want %d, last %+v", len(steps), want, last)
		}
	}
	// The clock of the fake advances by one for the action and by one for the
	// list of valid actions. After the first look around it is 2.
	f(Config{StepLimit: 20}, "open door", 10)
	f(Config{MaxActions: 7}, "gibberish", 7)
}

// A hanging simulator is killed with its JVM. The episodes of this JVM continue on
// another one without a difference.
func TestHangingSimulatorIsReplaced(t *testing.T) {
	for _, fault := range []string{"hang", "nonsense"} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				actions := []string{"good", "open door", fault, "good"}
				calm := fakeFamily(t, Config{}, newFaults(nil))
				want, err := play(t, calm, "boil/variation-1", actions...)
				if err != nil {
					t.Fatal(err)
				}
				calm.Close()

				fs := newFaults(map[string]int{fault: 2})
				f := fakeFamily(t, Config{Concurrency: 2, PerJVM: 2}, fs)
				neighbour, err := f.Open(t.Context(), envs.Task{ID: "boil/variation-2"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := neighbour.Reset(t.Context()); err != nil {
					t.Fatal(err)
				}
				got, err := play(t, f, "boil/variation-1", actions...)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
				if s, err := neighbour.Step(t.Context(), "good"); err != nil || s.Score != 10 {
					t.Errorf("neighbour: %+v, %v", s, err)
				}
				neighbour.Close()
				f.Close()
				if fs.hosts != 3 {
					t.Errorf("%d hosts were started, want 3: one and two replacements", fs.hosts)
				}
			})
		})
	}
}

func TestActionThatAlwaysHangsLosesOnlyItsEpisode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fakeFamily(t, Config{Concurrency: 1}, newFaults(map[string]int{"hang": 1000}))
		defer f.Close()
		if _, err := play(t, f, "boil/variation-1", "good", "hang"); !errors.Is(err, errHung) {
			t.Errorf("error %v, want %v", err, errHung)
		}
		if _, err := play(t, f, "boil/variation-1", "good"); err != nil {
			t.Errorf("the next episode: %v", err)
		}
	})
}

func TestDivergedReplayIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := newFaults(map[string]int{"hang": 1})
		fs.drift = true
		f := fakeFamily(t, Config{Concurrency: 1}, fs)
		defer f.Close()
		if _, err := play(t, f, "boil/variation-1", "good", "hang"); !errors.Is(err, errDiverged) {
			t.Errorf("error %v, want %v", err, errDiverged)
		}
	})
}

// After an exception in the simulator the policy gets an answer, and the names of the
// next objects are predicted correctly.
func TestExceptionIsAnswered(t *testing.T) {
	f := fakeFamily(t, Config{}, newFaults(nil))
	defer f.Close()
	steps, err := play(t, f, "boil/variation-1", "throw", "throw", "good")
	if err != nil {
		t.Fatal(err)
	}
	if steps[0].Observation.Feedback != exceptionText || steps[2].Score != 10 {
		t.Errorf("%+v", steps)
	}
}

func TestCancelledStepReturnsWithinTheGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fakeFamily(t, Config{Concurrency: 1}, newFaults(map[string]int{"hang": 1}))
		e, err := f.Open(t.Context(), envs.Task{ID: "boil/variation-1"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := errors.New("the run is stopping")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*cancelGrace, stop)
		defer cancel()
		if _, err := e.Step(ctx, "hang"); !errors.Is(err, stop) {
			t.Errorf("error %v, want %v", err, stop)
		}
		e.Close()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestMisuseIsRefused(t *testing.T) {
	f := fakeFamily(t, Config{Tasks: []string{"boil"}}, newFaults(nil))
	defer f.Close()
	refuse := func(id, want string) {
		t.Helper()
		if _, err := f.Open(t.Context(), envs.Task{ID: id}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", id, err, want)
		}
	}
	refuse("boil/variation-8", "hint: 0 to 7")
	refuse("boil/variation--1", "hint: 0 to 7")
	refuse("boil/variation-03", "not a task id")
	refuse("boil", "not a task id")
	refuse("power-component/variation-1", "env.scienceworld.tasks")
	if _, err := f.Tasks("dev"); err == nil || !strings.Contains(err.Error(), "hint: train, eval or test") {
		t.Errorf("unknown split: %v", err)
	}
}
