package remotetest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/turns"
)

// A Driver is the environment under test.
type Driver[F envs.Family] struct {
	// Open opens a family on a server. It fails the test after an error.
	Open func(t *testing.T, s exchange.Server) F
}

// Bubble runs a test in fake time with a family on h.
func (d Driver[F]) Bubble(t *testing.T, h http.Handler, test func(*testing.T, F)) {
	synctest.Test(t, func(t *testing.T) {
		f := d.Open(t, ServeInMemory(t, h))
		t.Cleanup(func() { closeFamily(t, f) })
		test(t, f)
	})
}

// Started returns a family on h that is closed at the end of the test.
func (d Driver[F]) Started(t *testing.T, h http.Handler) F {
	t.Helper()
	f := d.Open(t, Serve(t, h))
	t.Cleanup(func() { closeFamily(t, f) })
	return f
}

func closeFamily(t *testing.T, f envs.Family) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

// WaitsForAPlace checks that a second episode begins soon after the first has
// been closed. h must have room for one episode.
func (d Driver[F]) WaitsForAPlace(t *testing.T, h http.Handler) {
	const play, longestPause = 30 * time.Second, 6 * time.Second
	d.Bubble(t, h, func(t *testing.T, f F) {
		first, _ := Begin(t, f)
		time.AfterFunc(play, func() { _ = first.Close() })
		start := time.Now()
		Begin(t, f)
		if took := time.Since(start); took < play || took > play+longestPause {
			t.Errorf("the second episode began after %v, want soon after the end of the first at %v", took, play)
		}
	})
}

// GivesUpOnAFullServer checks that a reset fails after the default patience of
// five minutes. h must have room for the trial and one more episode at a time.
// It returns the error, and calls after when the reset has failed.
func (d Driver[F]) GivesUpOnAFullServer(t *testing.T, h http.Handler, want string, after func(*testing.T)) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		Begin(t, f)
		second := openEpisode(t, f)
		start := time.Now()
		_, err := second.Reset(t.Context())
		if took := time.Since(start); took != 5*time.Minute {
			t.Errorf("the reset ended after %v, want 5m0s", took)
		}
		wantError(t, err, "gave up", want)
		if after != nil {
			after(t)
		}
	})
}

// StepEndsAtItsDeadline checks that a step fails after the default timeout of
// one minute. h must not answer steps.
func (d Driver[F]) StepEndsAtItsDeadline(t *testing.T, h http.Handler, want string) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		e, _ := Begin(t, f)
		start := time.Now()
		_, err := e.Step(t.Context(), "wait")
		if took := time.Since(start); took != time.Minute {
			t.Errorf("the step ended after %v, want 1m0s", took)
		}
		wantError(t, err, want)
	})
}

// CancelledStepSaysWhy checks the error of a step whose context ends. h must
// not answer steps.
func (d Driver[F]) CancelledStepSaysWhy(t *testing.T, h http.Handler) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		e, _ := Begin(t, f)
		cause := errors.New("the run was stopped")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if _, err := e.Step(ctx, "wait"); !errors.Is(err, cause) {
			t.Errorf("error %v, want %v", err, cause)
		}
	})
}

// LosesABrokenEnvironment checks that an episode fails after five errors in a
// row. h must answer each step with an error that the action may have caused.
func (d Driver[F]) LosesABrokenEnvironment(t *testing.T, h http.Handler) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		e, _ := Begin(t, f)
		for n := range 4 {
			if _, err := e.Step(t.Context(), "go"); err != nil {
				t.Fatalf("error %d in a row: %v, want it as feedback", n+1, err)
			}
		}
		if _, err := e.Step(t.Context(), "go"); !errors.Is(err, turns.ErrBroken) {
			t.Errorf("error %v, want %v", err, turns.ErrBroken)
		}
	})
}

// Refuses checks that a step is answered with feedback, without a reward and
// with the state unchanged.
func (d Driver[F]) Refuses(t *testing.T, h http.Handler, feedback string) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		e, o := Begin(t, f)
		step, err := e.Step(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		want := envs.Step{Observation: envs.Observation{Feedback: feedback, State: o.State}, Invalid: true}
		if step != want {
			t.Errorf("step %+v, want %+v", step, want)
		}
	})
}

// LosesEpisode checks that a step fails with an error.
func (d Driver[F]) LosesEpisode(t *testing.T, h http.Handler, want string) {
	d.Bubble(t, h, func(t *testing.T, f F) {
		e, _ := Begin(t, f)
		_, err := e.Step(t.Context(), "x")
		wantError(t, err, want)
	})
}

// A Refusal checks that no family can be opened on h, and that the error has all
// parts of want. change may be nil.
type Refusal[C any] func(name string, h http.Handler, change func(*C), want ...string)

// RefusedAtStart returns the check for one kind of family.
func RefusedAtStart[C any, F envs.Family](
	t *testing.T, open func(context.Context, C) (F, error), config func(exchange.Server) C,
) Refusal[C] {
	return func(name string, h http.Handler, change func(*C), want ...string) {
		t.Run(name, func(t *testing.T) {
			c := config(Serve(t, h))
			if change != nil {
				change(&c)
			}
			f, err := open(t.Context(), c)
			if err == nil {
				closeFamily(t, f)
			}
			wantError(t, err, want...)
		})
	}
}

// NoServer makes s the address of a server that is not running.
func NoServer(s *exchange.Server) { s.Dial = exchangetest.Refuse }

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}
