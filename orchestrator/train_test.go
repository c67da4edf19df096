package orchestrator

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

// sleepRecorder records sleep and wake-up among the trainer's calls.
type sleepRecorder struct {
	trainer *fakeTrainer
	fail    error // of Sleep
}

func (s sleepRecorder) Sleep(context.Context) error {
	return errors.Join(s.trainer.call("sleep"), s.fail)
}
func (s sleepRecorder) Wake(context.Context) error { return s.trainer.call("wake") }

func TestServerSleepsWhileTheTrainerWorks(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 1 }))
	l, done := w.open()
	defer done()
	l.Sleeper = sleepRecorder{trainer: w.trainer}
	if _, err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	asleep := false
	for _, c := range w.trainer.calls {
		switch c {
		case "sleep", "wake":
			asleep = c == "sleep"
		case "forward_backward", "optim_step", "save 1", "export 1":
			if !asleep {
				t.Errorf("%s while the server was awake: %v", c, w.trainer.calls)
			}
		}
	}
	if asleep || !slices.Contains(w.trainer.calls, "sleep") {
		t.Errorf("calls %v", w.trainer.calls)
	}
}

// A trainer that fails for good leaves the server awake.
func TestServerIsWokenAfterAFailure(t *testing.T) {
	w := newWorld(t, small())
	l, done := w.open()
	defer done()
	l.Sleeper = sleepRecorder{trainer: w.trainer}
	broken := errors.New("a request that is refused")
	w.trainer.fail = func(call string) error {
		if call == "optim_step" {
			return broken
		}
		return nil
	}
	_, err := l.Run(context.Background())
	if last := w.trainer.calls[len(w.trainer.calls)-1]; !errors.Is(err, broken) || last != "wake" {
		t.Errorf("%v after %v", err, w.trainer.calls)
	}
}
