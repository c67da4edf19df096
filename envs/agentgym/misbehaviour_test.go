package agentgym

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/turns"
)

func TestRefusedAtStart(t *testing.T) {
	f := func(name, dialect string, h http.Handler, change func(*Config), want ...string) {
		t.Run(name, func(t *testing.T) {
			c := config(dialect, serve(t, h))
			if change != nil {
				change(&c)
			}
			family, err := Open(t.Context(), c)
			if err == nil {
				family.Close()
				t.Fatal("opened")
			}
			for _, part := range want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
		})
	}
	only := func(path string, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != path {
				http.NotFound(w, r)
				return
			}
			answer(w, body)
		}
	}
	broken := newFake("sciworld")
	broken.before = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if r.URL.Path == "/reset" {
			answer(w, m{"error": "list index out of range"})
		}
		return r.URL.Path == "/reset"
	}
	f("other greeting", "sciworld", newFake("alfworld"), nil, "AlfWorld", `set the dialect to "alfworld"`)
	f("one of several", "sciworld", newFake("wordle"), nil, `"maze" or "wordle"`)
	f("other fields", "webshop", newFake("weather"), nil, "body.id: Field required", "hint", `"weather"`)
	f("other answers", "sqlgym", newFake("webshop"), nil, "body.session_id", `"webshop"`)
	f("ORS", "sciworld", only("/list_environments", []string{"house"}), nil, "404", `env.name = "ors"`)
	f("OpenEnv", "sciworld", only("/health", m{"status": "healthy"}), nil, "404", `env.name = "openenv"`)
	f("plain schema", "sciworld", only("/", m{"protocol": "empo2-env", "version": 1}), nil, "404", `env.name = "remote"`)
	f("web page", "sciworld", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }), nil, "not JSON", "hint")
	f("task refused", "sciworld", broken, nil, "task 1", "list index out of range")
	f("no server", "sciworld", nil, func(c *Config) { c.Dial = exchangetest.Refuse }, "cannot be reached", "start AgentGym's server of sciworld")
	f("unknown dialect", "atari", nil, nil, `unknown dialect "atari"`, "sciworld")
	f("unknown task", "sciworld", nil, func(c *Config) { c.Test = numbered.Set{4639} }, "0 to 4638")
	f("no tasks", "babyai", nil, func(c *Config) { c.Splits = numbered.Splits{} }, `train = "0-99"`)
	f("episodes", "sciworld", nil, func(c *Config) { c.Episodes = -1 }, "negative")
}

// inBubble opens a family in fake time.
func inBubble(t *testing.T, s *fakeServer, dialect string, test func(*testing.T, *Family)) {
	synctest.Test(t, func(t *testing.T) {
		f := mustOpen(t, config(dialect, exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, s)}))
		t.Cleanup(func() { f.Close() })
		test(t, f)
	})
}

// on limits what before does to a path and to some of its calls.
func on(path string, from, to int, do http.HandlerFunc) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != path || n < from || n > to {
			return false
		}
		do(w, r)
		return true
	}
}

const forEver = 1 << 30

// AgentGym's own client tries a step again after a 503; so do we.
func TestBusyServerIsWaitedFor(t *testing.T) {
	s := newFake("webshop")
	s.before = on("/step", 0, 4, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	inBubble(t, s, "webshop", func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		start := time.Now()
		_, err := e.Step(t.Context(), "search[x]")
		if took := time.Since(start); err != nil || took < 2300*time.Millisecond || took > 3900*time.Millisecond {
			t.Errorf("error %v after %v, want none after the pauses 0.1, 0.2, … 1.6 s", err, took)
		}
	})
}

// A full sqlgym or webshop hands out its environments a second time. Two
// episodes must not share one.
func TestNoEnvironmentIsShared(t *testing.T) {
	s := newFake("webshop")
	s.maxEnvs = 1
	inBubble(t, s, "webshop", func(t *testing.T, f *Family) {
		tasks, _ := f.Tasks(envs.Train)
		first, err := f.Open(t.Context(), tasks[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(20*time.Second, func() { _ = first.Close() })
		start := time.Now()
		begin(t, f)
		if took := time.Since(start); took < 20*time.Second || took > 26*time.Second {
			t.Errorf("the second episode began after %v, want after the first had ended", took)
		}
	})
}

func TestHangingServer(t *testing.T) {
	s := newFake("sciworld")
	s.before = on("/step", 0, forEver, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	inBubble(t, s, "sciworld", func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		start := time.Now()
		_, err := e.Step(t.Context(), "wait")
		if took := time.Since(start); err == nil || took != time.Minute || !strings.Contains(err.Error(), "no answer from http://env within 1m0s") {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

// After a restart the server knows no environment of before: the episode under
// way is lost, the next one has a new environment.
func TestRestartedServer(t *testing.T) {
	s := newFake("sciworld")
	inBubble(t, s, "sciworld", func(t *testing.T, f *Family) {
		forget := func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			clear(s.worlds)
		}
		s.next = 10
		e, _ := begin(t, f)
		forget()
		if _, err := e.Step(t.Context(), "look"); err == nil || !strings.Contains(err.Error(), "lost the environment") {
			t.Errorf("error %v", err)
		}
		finish(t, f)
		forget()
		finish(t, f)
	})
}

func TestStepAnswers(t *testing.T) {
	reply := func(status int, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			answer(w, body)
		}
	}
	f := func(name string, do http.HandlerFunc, wantErr, wantFeedback string) {
		t.Run(name, func(t *testing.T) {
			s := newFake("sciworld")
			s.before = on("/step", 0, forEver, do)
			family := mustOpen(t, config("sciworld", serve(t, s)))
			t.Cleanup(func() { family.Close() })
			e, o := begin(t, family)
			step, err := e.Step(t.Context(), "x")
			switch {
			case wantErr == "" && err == nil:
				if step.Observation.Feedback != wantFeedback || step.Observation.State != o.State || step.Done() {
					t.Errorf("step %+v, want feedback %q and the state unchanged", step, wantFeedback)
				}
			case err == nil || wantErr == "" || !strings.Contains(err.Error(), wantErr):
				t.Errorf("error %v, want one with %q", err, wantErr)
			}
			if n := s.called("/step"); n != 1 {
				t.Errorf("the step was sent %d times", n)
			}
		})
	}
	f("error inside 200", reply(200, m{"error": "list index out of range"}), "", "list index out of range")
	f("lost inside 200", reply(200, m{"error": "The task with environment 0 has been deleted."}), "lost the environment", "")
	f("action refused", func(w http.ResponseWriter, _ *http.Request) { unprocessable(w, "action", "too long") }, "", "body.action: too long")
	f("id refused", func(w http.ResponseWriter, _ *http.Request) { unprocessable(w, "id", "unknown") }, "body.id: unknown", "")
	f("broken", reply(500, "Internal Server Error"), "500", "")
	f("bad gateway", reply(502, ""), "502", "")
	f("cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "connection was lost", "")
	f("other version", reply(200, m{"state": "x", "reward": 0, "done": false}), "lacks observation", "")
	f("no score", reply(200, m{"observation": "x", "reward": 0, "done": false}), "lacks score", "")
	f("null", reply(200, nil), "lacks observation", "")
}

// An environment in ruins answers everything with an error; that must not be
// trained on.
func TestErrorsInsideGoodAnswersEnd(t *testing.T) {
	s := newFake("sciworld")
	s.before = on("/step", 0, forEver, func(w http.ResponseWriter, _ *http.Request) { answer(w, m{"error": "no Java"}) })
	f := mustOpen(t, config("sciworld", serve(t, s)))
	defer f.Close()
	e, _ := begin(t, f)
	var err error
	for range 5 {
		_, err = e.Step(t.Context(), "look")
	}
	if !errors.Is(err, turns.ErrBroken) {
		t.Errorf("error %v, want %v", err, turns.ErrBroken)
	}
}

// Environments are used again, given up after an error, and given back at the
// end.
func TestEnvironmentsAreUsedAgain(t *testing.T) {
	s := newFake("sciworld")
	f := mustOpen(t, config("sciworld", serve(t, s)))
	t.Run("episodes", func(t *testing.T) {
		for range 3 {
			t.Run("", func(t *testing.T) { finish(t, f) })
		}
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if created, closed := s.called("/create"), s.called("/close"); created != 1 || closed != 1 {
		t.Errorf("%d environments created and %d closed, want one", created, closed)
	}
}
