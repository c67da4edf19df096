package ors

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/turns"
)

const forEver = 1 << 30

// inBubble opens a family in fake time.
func inBubble(t *testing.T, s *fakeServer, test func(*testing.T, *Family)) {
	synctest.Test(t, func(t *testing.T) {
		f := mustOpen(t, config(exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, s)}))
		t.Cleanup(func() { f.Close() })
		test(t, f)
	})
}

// hang waits until the client hangs up, which a server sees once it has read
// the body.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// A slow policy does not lose its session: the server hears of it every ten
// seconds, and no more once the episode is closed.
func TestSessionIsKeptAlive(t *testing.T) {
	s := newFake()
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		time.Sleep(time.Minute + time.Second)
		if n := s.seen("/ping"); n != 6 {
			t.Errorf("%d pings in a minute, want 6", n)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := s.seen("/ping"); n != 6 {
			t.Errorf("%d pings, want none after the end", n)
		}
	})
}

func TestFullServerIsWaitedFor(t *testing.T) {
	s := newFake()
	s.capacity = 1
	inBubble(t, s, func(t *testing.T, f *Family) {
		first, _ := begin(t, f)
		time.AfterFunc(30*time.Second, func() { _ = first.Close() })
		start := time.Now()
		second, _ := begin(t, f)
		defer second.Close()
		if took := time.Since(start); took < 30*time.Second || took > 36*time.Second {
			t.Errorf("the second episode began after %v, want soon after the first had ended", took)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	s := newFake()
	s.capacity = 1
	inBubble(t, s, func(t *testing.T, f *Family) {
		first, _ := begin(t, f)
		defer first.Close()
		start := time.Now()
		_, err := (&episode{family: f, at: place{split: "train"}}).Reset(t.Context())
		if took := time.Since(start); err == nil || took != 5*time.Minute || !strings.Contains(err.Error(), "no room") {
			t.Errorf("error %v after %v", err, took)
		}
		if s.seen("/create_session") != s.seen("/delete_session")+1 {
			t.Errorf("%d sessions were made and %d deleted, want all but one", s.seen("/create_session"), s.seen("/delete_session"))
		}
	})
}

func TestHangingToolEndsAtItsDeadline(t *testing.T) {
	f := func(name string, do http.HandlerFunc) {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.before = on("/call", 0, forEver, do)
			inBubble(t, s, func(t *testing.T, f *Family) {
				e, _ := begin(t, f)
				defer e.Close()
				start := time.Now()
				_, err := e.Step(t.Context(), "wait")
				if took := time.Since(start); err == nil || took != time.Minute || !strings.Contains(err.Error(), "no answer from http://env within 1m0s") {
					t.Errorf("error %v after %v", err, took)
				}
			})
		})
	}
	f("at once", hang)
	f("in its stream", func(w http.ResponseWriter, r *http.Request) {
		stream(w, "task_id", "call-x")
		hang(w, r)
	})
}

func TestCancelledStepSaysWhy(t *testing.T) {
	s := newFake()
	s.before = on("/call", 0, forEver, hang)
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		defer e.Close()
		because := errors.New("the run was stopped")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, because)
		defer cancel()
		if _, err := e.Step(ctx, "wait"); !errors.Is(err, because) {
			t.Errorf("error %v, want %v", err, because)
		}
	})
}

// A server that does not answer the end of a session delays it by ten seconds
// at most.
func TestHangingFarewell(t *testing.T) {
	s := newFake()
	s.before = on("/delete", 1, forEver, hang)
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		start := time.Now()
		if err := e.Close(); err != nil || time.Since(start) != farewell {
			t.Errorf("error %v after %v", err, time.Since(start))
		}
	})
}

// An environment that takes minutes to start is waited for, in its session.
func TestSlowStart(t *testing.T) {
	s := newFake()
	s.before = on("/prompt", 1, 30, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "2")
		refuse(w, http.StatusServiceUnavailable, "Environment still starting.")
	})
	inBubble(t, s, func(t *testing.T, f *Family) {
		start := time.Now()
		e, _ := begin(t, f)
		defer e.Close()
		if took := time.Since(start); took < time.Minute || s.seen("/create") != 2 {
			t.Errorf("began after %v with %d sessions, want more than a minute and 2 (one is the trial's)", took, s.seen("/create"))
		}
	})
}

// A session that is lost before the prompt is replaced by another.
func TestCutResetBeginsAgain(t *testing.T) {
	for _, path := range []string{"/create_session", "/create", "/prompt"} {
		s := newFake()
		s.before = on(path, 1, 2, abort)
		inBubble(t, s, func(t *testing.T, f *Family) {
			e, _ := begin(t, f)
			if err := e.Close(); err != nil || s.left() != 0 {
				t.Errorf("%s: error %v, %d environments left", path, err, s.left())
			}
		})
	}
}

// A stream that is cut after it has named its task is taken up again, and the
// tool has acted once; before, nobody knows, and the episode is lost.
func TestCutStreams(t *testing.T) {
	s := newFake()
	s.before = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != "/house/call" || n > 1 {
			return false
		}
		if n == 0 {
			s.mu.Lock()
			s.results["call-x"] = `{"ok":true,"output":{"blocks":[{"type":"text","text":"acted"}],"reward":0.5,"finished":false}}`
			s.mu.Unlock()
			stream(w, "task_id", "call-x")
		}
		panic(http.ErrAbortHandler)
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		defer e.Close()
		step, err := e.Step(t.Context(), "go")
		if err != nil || step.Reward != 0.5 || step.Observation.State != "acted" || s.seen("/house/call") != 3 {
			t.Errorf("step %+v, error %v after %d calls", step, err, s.seen("/house/call"))
		}
		s.before = on("/call", 3, forEver, abort)
		if _, err := e.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "connection was lost") || s.seen("/house/call") != 4 {
			t.Errorf("error %v after %d calls", err, s.seen("/house/call"))
		}
	})
}

// A server that was restarted does not know the task any more.
func TestForgottenCall(t *testing.T) {
	s := newFake()
	s.before = on("/call", 0, 0, func(w http.ResponseWriter, _ *http.Request) {
		stream(w, "task_id", "call-y")
		panic(http.ErrAbortHandler)
	})
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		defer e.Close()
		if _, err := e.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "unknown task_id") {
			t.Errorf("error %v", err)
		}
	})
}

func TestStepAnswers(t *testing.T) {
	f := func(name string, answer http.HandlerFunc, wantErr, wantFeedback string) {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.before = on("/call", 0, forEver, answer)
			family := mustOpen(t, config(serve(t, s)))
			defer family.Close()
			e, o := begin(t, family)
			defer e.Close()
			step, err := e.Step(t.Context(), "x")
			switch {
			case wantErr == "" && err == nil:
				if step.Observation.Feedback != wantFeedback || step.Observation.State != o.State || step.Reward != 0 || step.Done() {
					t.Errorf("step %+v, want feedback %q and the state unchanged", step, wantFeedback)
				}
			case err == nil || wantErr == "" || !strings.Contains(err.Error(), wantErr):
				t.Errorf("error %v, want one with %q", err, wantErr)
			}
		})
	}
	event := func(name, data string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { stream(w, name, data) }
	}
	status := func(code int, detail string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, code, detail) }
	}
	f("tool refuses its input", event("end", `{"ok":false,"error":"Tool input validation error: n"}`), "", "Tool input validation error: n")
	f("tool throws", event("error", "division by zero"), "", "division by zero")
	f("request refused", status(http.StatusUnprocessableEntity, "too deep"), "", "too deep")
	f("session gone", status(http.StatusNotFound, "Active environment not found"), "Active environment not found", "")
	f("server fails", status(http.StatusInternalServerError, "RuntimeError"), "RuntimeError", "")
	f("error in a 200", func(w http.ResponseWriter, _ *http.Request) { reply(w, m{"error": "x"}) }, "not a stream of events", "")
	f("no JSON", event("end", "ok"), "not one of ORS", "")
	f("no output", event("end", `{"ok":true}`), "not one of ORS", "")
	f("words for a reward", event("end", `{"ok":true,"output":{"blocks":[],"reward":"much","finished":false}}`), "not one of ORS", "")
}

func TestEnvironmentInRuins(t *testing.T) {
	s := newFake()
	s.before = on("/call", 0, forEver, func(w http.ResponseWriter, _ *http.Request) { stream(w, "error", "no engine") })
	f := mustOpen(t, config(serve(t, s)))
	defer f.Close()
	e, _ := begin(t, f)
	defer e.Close()
	var err error
	for range 5 {
		_, err = e.Step(t.Context(), "go")
	}
	if !errors.Is(err, turns.ErrBroken) {
		t.Errorf("error %v, want %v", err, turns.ErrBroken)
	}
}
