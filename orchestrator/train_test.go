package orchestrator

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

// napper records when it slept among the trainer's calls.
type napper struct {
	trainer *fakeTrainer
	fail    error // of Sleep
}

func (n napper) Sleep(context.Context) error { return errors.Join(n.trainer.call("sleep"), n.fail) }
func (n napper) Wake(context.Context) error  { return n.trainer.call("wake") }

func TestServerSleepsWhileTheTrainerWorks(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 1 }))
	l, done := w.open()
	defer done()
	l.Sleeper = napper{trainer: w.trainer}
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

// A trainer that fails for good leaves an awake server behind.
func TestServerIsWokenAfterAFailure(t *testing.T) {
	w := newWorld(t, small())
	l, done := w.open()
	defer done()
	l.Sleeper = napper{trainer: w.trainer}
	broken := errors.New("a request that is refused")
	w.trainer.fail = func(call string) error {
		if call == "optim_step" {
			return broken
		}
		return nil
	}
	if _, err := l.Run(context.Background()); !errors.Is(err, broken) || w.trainer.calls[len(w.trainer.calls)-1] != "wake" {
		t.Errorf("%v after %v", err, w.trainer.calls)
	}
}
