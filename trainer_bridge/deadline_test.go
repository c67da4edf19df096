package trainerbridge

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

func TestServerThatNeverAnswers(t *testing.T) {
	f := func(op string) {
		t.Helper()
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var begun atomic.Bool
				hang := func(c fakeserver.Call) fakeserver.Fault {
					return fakeserver.Fault{Hang: c.Op == op && begun.Load()}
				}
				s, c := inMemory(t, fakeserver.Options{Fault: hang}, ClientConfig{Timeout: 3 * time.Minute,
					AnswerTimeout: time.Minute})
				begun.Store(true)
				start := time.Now()
				_, err := c.OptimStep(t.Context(), adam)
				if !errors.Is(err, ErrUnavailable) ||
					!strings.Contains(err.Error(), "optim_step: no result within 3m0s") {
					t.Errorf("got %v", err)
				}
				if took := time.Since(start); took != 3*time.Minute {
					t.Errorf("it ended after %v", took)
				}
				if n := s.Count(op); n < 3 {
					t.Errorf("%d attempts; want one each minute", n)
				}
			})
		})
	}
	f("optim_step")
	f("retrieve_future")
}

func TestSlowWorkIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := once("forward_backward", fakeserver.Fault{Delay: 40 * time.Second})
		s, c := inMemory(t, fakeserver.Options{Fault: slow, Hold: 10 * time.Second}, ClientConfig{})
		if _, _, err := c.ForwardBackward(t.Context(), []Row{newRow(1, 2)}, empo2Loss); err != nil {
			t.Fatal(err)
		}
		if s.State().Pending != 1 {
			t.Errorf("state %+v", s.State())
		}
	})
}

func TestDeadTrainerIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := inMemory(t, fakeserver.Options{Fault: once("optim_step", fakeserver.Fault{Die: true})}, ClientConfig{})
		if _, err := c.OptimStep(t.Context(), adam); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
		if _, err := c.OptimStep(t.Context(), adam); !errors.Is(err, ErrUncertain) {
			t.Errorf("got %v, want ErrUncertain", err)
		}
		if err := c.Health(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("health of a dead trainer: %v", err)
		}
	})
}

func TestUsedSequenceNumberIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := inMemory(t, fakeserver.Options{Fault: always("forward", fakeserver.Fault{Lose: true})}, ClientConfig{})
		if _, err := c.Forward(t.Context(), []Row{{Tokens: []int32{1, 2}}}); !errors.Is(err, ErrUnavailable) {
			t.Fatalf("got %v, want ErrUnavailable", err)
		}
		if err := c.SaveWeights(t.Context(), "x"); err != nil {
			t.Fatalf("the next call: %v", err)
		}
	})
}

func TestCallEndsWithTheCallersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := inMemory(t, fakeserver.Options{Fault: always("optim_step", fakeserver.Fault{Hang: true})},
			ClientConfig{})
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("ctrl-c")
		time.AfterFunc(time.Second, func() { cancel(stop) })
		start := time.Now()
		if _, err := c.OptimStep(ctx, adam); !errors.Is(err, stop) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, c := inMemory(t, fakeserver.Options{Fault: once("optim_step", fakeserver.Fault{Status: 429,
			RetryAfter: 30 * time.Second})}, ClientConfig{})
		start := time.Now()
		if _, err := c.OptimStep(t.Context(), adam); err != nil || time.Since(start) != 30*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestSessionIsKeptAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := inMemory(t, fakeserver.Options{}, ClientConfig{})
		time.Sleep(35 * time.Second)
		c.Close()
		time.Sleep(time.Minute)
		if n := s.Count("session_heartbeat"); n != 6 && n != 7 { // the last one is due when the client closes
			t.Errorf("%d heartbeats in 35 s, want 6 or 7", n)
		}
	})
}

// A trainer whose process hangs is named within 15 seconds, and again when it
// answers.
func TestSilentTrainerIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var beats atomic.Int64
		silence := func(c fakeserver.Call) fakeserver.Fault {
			return fakeserver.Fault{Hang: c.Op == "session_heartbeat" && beats.Add(1) <= 2}
		}
		_, c := inMemory(t, fakeserver.Options{Fault: silence}, ClientConfig{Log: zerolog.New(&log)})
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if text := log.String(); strings.Count(text, "the trainer does not answer") != 1 {
			t.Errorf("after 15 s: %q", text)
		}
		time.Sleep(15 * time.Second)
		c.Close()
		synctest.Wait()
		if text := log.String(); strings.Count(text, "does not answer") != 1 ||
			strings.Count(text, "the trainer answers again") != 1 {
			t.Errorf("after 30 s: %q", text)
		}
	})
}
