package orchestrator

import (
	"context"
	"slices"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// The phases of a run that samples ahead show the sampling beside the training, and the
// sampling alone while the trainer waits for it.
func TestTheSamplingAheadIsShown(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) { c.Eval.Every = 0 })
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	beside := slices.ContainsFunc(w.phases, func(p watchdog.Phase) bool {
		return p.Name == watchdog.PhaseTraining && p.Step == 1 && p.Beside.Step == 2 &&
			p.Beside.Name == watchdog.PhaseSampling && p.Beside.Total == 32
	})
	alone := slices.ContainsFunc(w.phases, func(p watchdog.Phase) bool {
		return p.Name == watchdog.PhaseSampling && p.Step == 1 && p.Done > 0 && p.Of == 4 && p.Beside.Name == ""
	})
	if !beside || !alone {
		t.Errorf("beside the training: %v, alone: %v", beside, alone)
	}
	var names []string
	for _, p := range w.steps[1].Phases {
		names = append(names, p.Name)
	}
	for _, want := range []string{watchdog.PhaseSampling, watchdog.PhaseTraining, watchdog.PhasePublishing} {
		if !slices.Contains(names, want) {
			t.Errorf("step 2 has the phases %q, without %s", names, want)
		}
	}
}

// The idle shares of a step in turn follow from its seconds.
func TestIdleShares(t *testing.T) {
	f := func(m StepMetrics, server, trainer float64, known bool) {
		t.Helper()
		s, tr, ok := m.Idle()
		if s != server || tr != trainer || ok != known {
			t.Errorf("%g, %g, %v; want %g, %g, %v", s, tr, ok, server, trainer, known)
		}
	}
	f(StepMetrics{Seconds: Seconds{Sample: 6, Train: 1, Publish: 1, Total: 8}}, 0.25, 0.875, true)
	ahead := StepMetrics{Seconds: Seconds{Sample: 9, Train: 4, Total: 8}, Overlap: Overlap{Sampling: new(6.0)}}
	f(ahead, 0.25, 0.5, true)
	ahead.Overlap.Sampling = new(8.5) // rounding
	f(ahead, 0, 0.5, true)
	f(StepMetrics{}, 0, 0, false)
}

// A run that ends by its time trains no step that is sampled ahead, and leaves it to the
// same command with more time.
func TestARunThatEndsByItsTimeKeepsWhatIsSampled(t *testing.T) {
	w := newOverlapped(t, func(c *config.Config) { c.Run.MaxSeconds, c.Eval.Every = 1e-9, 0 })
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	ahead := len(w.trajectories(2))
	if len(w.steps) != 1 || ahead == 0 {
		t.Errorf("%d steps, %d episodes of step 2", len(w.steps), ahead)
	}
	if err := w.run(t.Context()); err != nil || len(w.trajectories(2)) != ahead || len(w.trajectories(3)) != 0 {
		t.Errorf("the same command samples what it does not train: %v", err)
	}
	w.config.Run.MaxSeconds = 0
	before := w.finishedEpisodes()
	if err := w.run(context.Background()); err != nil || len(w.steps) != 4 {
		t.Fatalf("%d steps, %v", len(w.steps), err)
	}
	for seed := range before {
		if !w.finishedEpisodes()[seed] {
			t.Fatal("an episode that was sampled ahead is lost")
		}
	}
}
