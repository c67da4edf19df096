package envs

import (
	"context"
	"errors"
	"testing"
)

// fakeEpisode ends after two steps. Every step returns the error fail.
type fakeEpisode struct {
	calls int
	fail  error
}

func (f *fakeEpisode) Reset(context.Context) (Observation, error) {
	f.calls++
	return Observation{State: "start"}, nil
}

func (f *fakeEpisode) Step(context.Context, string) (Step, error) {
	f.calls++
	return Step{Terminated: f.calls == 3}, f.fail
}

func (f *fakeEpisode) Close() error { return nil }

func TestGuardEnforcesTheOrder(t *testing.T) {
	e := Guard(&fakeEpisode{})
	misused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrMisuse) {
			t.Errorf("%s: error %v, want %v", what, err, ErrMisuse)
		}
	}
	_, err := e.Step(t.Context(), "")
	misused("step before reset", err)
	if _, err := e.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = e.Reset(t.Context())
	misused("second reset", err)
	for range 2 {
		if _, err := e.Step(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	_, err = e.Step(t.Context(), "")
	misused("step after the end", err)
}

func TestGuardEndsAFailedEpisode(t *testing.T) {
	broken := errors.New("the environment failed")
	e := Guard(&fakeEpisode{fail: broken})
	if _, err := e.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Step(t.Context(), ""); !errors.Is(err, broken) {
		t.Errorf("step: %v, want %v", err, broken)
	}
	if _, err := e.Step(t.Context(), ""); !errors.Is(err, ErrMisuse) {
		t.Errorf("step of a lost episode: %v, want %v", err, ErrMisuse)
	}
}

func TestGuardStopsAtAnEndedContext(t *testing.T) {
	why := errors.New("the step was cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	inner := &fakeEpisode{}
	e := Guard(inner)
	cancel(why)
	if _, err := e.Reset(ctx); !errors.Is(err, why) {
		t.Errorf("reset: %v, want %v", err, why)
	}
	if _, err := e.Step(ctx, ""); !errors.Is(err, why) {
		t.Errorf("step: %v, want %v", err, why)
	}
	if inner.calls != 0 {
		t.Errorf("the episode was called %d times", inner.calls)
	}
}
