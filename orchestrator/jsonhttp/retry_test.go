package jsonhttp

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// sequence returns the errors fails one after the other and then succeeds.
func sequence(calls *int, fails ...error) func(context.Context) error {
	return func(context.Context) error {
		*calls++
		if *calls <= len(fails) {
			return fails[*calls-1]
		}
		return nil
	}
}

func about(got, want time.Duration) bool { return got >= want*3/4 && got <= want*5/4+1 }

func TestPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy, calls := &Error{Kind: Busy}, 0
		var pauses []time.Duration
		start := time.Now()
		err := Retry{Last: 300 * time.Millisecond, Before: func(attempt int, pause time.Duration, err error) {
			if pauses = append(pauses, pause); attempt != len(pauses) || err != busy {
				t.Errorf("attempt %d, pause %v: %v", attempt, pause, err)
			}
		}}.Do(t.Context(), sequence(&calls, busy, busy, busy, busy))
		if err != nil || calls != 5 {
			t.Fatalf("%v after %d calls", err, calls)
		}
		var sum time.Duration
		for i, want := range []time.Duration{100, 200, 300, 300} {
			if sum += pauses[i]; !about(pauses[i], want*time.Millisecond) {
				t.Errorf("pause %d is %v, want about %v", i, pauses[i], want*time.Millisecond)
			}
		}
		if took := time.Since(start); took != sum {
			t.Errorf("took %v, the pauses are %v", took, sum)
		}
	})
}

func TestRetryRepeatsRetryableErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(r Retry, calls int, want string, fails ...error) {
			t.Helper()
			n := 0
			err := r.Do(t.Context(), sequence(&n, fails...))
			if n != calls || (err == nil) != (want == "") {
				t.Fatalf("%v after %d calls, want %q after %d", err, n, want, calls)
			}
			if err != nil && (!strings.Contains(err.Error(), want) || !errors.Is(err, fails[n-1])) {
				t.Errorf("%v, want %q", err, want)
			}
		}
		busy, refused := &Error{Kind: Busy, Message: "full"}, &Error{Kind: Refused, Message: "no"}
		failed := &Error{Kind: Failed, Message: "died"}
		f(Retry{}, 2, "", busy)
		f(Retry{}, 1, "no", refused)
		f(Retry{}, 1, "died", failed)
		f(Retry{}, 2, "no", busy, refused)
		f(Retry{}, 1, "other", errors.New("other"))
		f(Retry{Attempts: 3}, 3, "after 3 attempts: full", busy, busy, busy)
		f(Retry{Attempts: 3}, 3, "no", busy, busy, refused)
		f(Retry{Again: func(err error) bool { return err == failed }}, 2, "", failed)
	})
}

func TestRetryWaitsAsTheServerRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(r Retry, after, want time.Duration) {
			t.Helper()
			calls, start := 0, time.Now()
			err := r.Do(t.Context(), sequence(&calls, &Error{Kind: Busy, After: after}))
			if took := time.Since(start); err != nil || took != want {
				t.Errorf("Retry-After %v: %v after %v, want %v", after, err, took, want)
			}
		}
		f(Retry{}, 30*time.Second, 30*time.Second)
		f(Retry{}, time.Hour, time.Minute)
		f(Retry{LongestAfter: 2 * time.Hour}, time.Hour, time.Hour)
		f(Retry{LongestAfter: time.Second}, time.Hour, time.Second)
	})
}

func TestRetryEndsIfThePauseExceedsTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		calls, start := 0, time.Now()
		busy := &Error{Kind: Busy, Message: "full", After: time.Hour}
		err := Retry{LongestAfter: 2 * time.Hour}.Do(ctx, sequence(&calls, busy))
		const want = "full (the next attempt would be in 1h0m0s, after the deadline)"
		if !errors.Is(err, busy) || time.Since(start) != 0 || err.Error() != want {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestRetryEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := &Error{Kind: Busy, Message: "full"}
		always := func(context.Context) error { return busy }
		stop := errors.New("stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(stop) })
		err := Retry{}.Do(ctx, always)
		if !errors.Is(err, stop) || !errors.Is(err, busy) || err.Error() != "stopped (last: full)" {
			t.Errorf("got %v", err)
		}
	})
}
