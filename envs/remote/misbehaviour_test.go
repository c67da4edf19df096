package remote

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
)

func TestRefusedAtStart(t *testing.T) {
	f := func(name string, h http.HandlerFunc, change func(*Config), want ...string) {
		t.Run(name, func(t *testing.T) {
			c := serve(t, h)
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
	fake := func(change func(*fakeServer)) http.HandlerFunc {
		s := newFake()
		change(s)
		return s.ServeHTTP
	}
	path := func(at string, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != at {
				http.NotFound(w, r)
				return
			}
			answer(w, body)
		}
	}
	f("newer version", fake(func(s *fakeServer) { s.about = map[string]any{"protocol": protocol, "version": 2} }), nil, "version 2", "hint", `"version": 1`)
	f("other protocol", path("/", map[string]any{"protocol": "gopher"}), nil, `"gopher"`, "hint")
	f("OpenEnv", path("/health", map[string]any{"status": "healthy"}), nil, "404", `env.name = "openenv"`)
	f("AgentGym", path("/", "This is environment BabyAI."), nil, "404", `env.name = "agentgym"`)
	f("web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, nil, "not JSON", "hint")
	f("reset without id", path("/reset", map[string]any{"observation": "x"}), nil, `lacks "id"`, "hint")
	f("reset with another observation", path("/reset", map[string]any{"id": 1, "observation": []int{1}}), nil, "neither a text", "hint")
	f("error inside 200", path("/reset", map[string]any{"error": "no such world"}), nil, "no such world")
	f("locked", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, nil, "401", "token")
	f("no server", nil, func(c *Config) { c.Dial = exchangetest.Refuse }, "cannot be reached", "start the environment's server")
	f("no url", nil, func(c *Config) { c.URL = "localhost:8000" }, "http://host:port")
	f("no tasks", newFake().ServeHTTP, func(c *Config) { c.Train = nil }, `train = "0-99"`)
	f("leak", newFake().ServeHTTP, func(c *Config) { c.Test = numbered.Set{1} }, "in train and in test")
	f("episodes", newFake().ServeHTTP, func(c *Config) { c.Episodes = -1 }, "negative")
}

// inBubble opens a family in fake time.
func inBubble(t *testing.T, s *fakeServer, test func(*testing.T, *Family)) {
	synctest.Test(t, func(t *testing.T) {
		c := config(exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, s)})
		f := mustOpen(t, c)
		t.Cleanup(func() { f.Close() })
		test(t, f)
	})
}

func TestFullServerIsWaitedFor(t *testing.T) {
	s := newFake()
	s.reset = func(w http.ResponseWriter, n int) bool {
		if n == 0 || n > 9 {
			return false
		}
		w.Header().Set("Retry-After", "3")
		return status(http.StatusServiceUnavailable, "full")(w, n)
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		start := time.Now()
		begin(t, f)
		if took := time.Since(start); took < 27*time.Second || took > time.Minute {
			t.Errorf("nine refusals with Retry-After 3 took %v", took)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	s := newFake()
	s.reset = func(w http.ResponseWriter, n int) bool {
		return n > 0 && status(http.StatusTooManyRequests, "full")(w, n)
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		start := time.Now()
		_, err := (&episode{family: f}).Reset(t.Context())
		if took := time.Since(start); err == nil || took != 5*time.Minute {
			t.Errorf("error %v after %v, want one after 5m0s", err, took)
		} else if !strings.Contains(err.Error(), "gave up") || !strings.Contains(err.Error(), "full") {
			t.Errorf("error %q does not say what was waited for", err)
		}
	})
}

func TestHangingStepEndsAtItsDeadline(t *testing.T) {
	s := newFake()
	s.step = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		<-r.Context().Done()
		return true
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		start := time.Now()
		_, err := e.Step(t.Context(), "wait")
		if took := time.Since(start); err == nil || took != time.Minute || !strings.Contains(err.Error(), "no answer from http://env within 1m0s") {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

func TestCancelledStepSaysWhy(t *testing.T) {
	s := newFake()
	s.step = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		<-r.Context().Done()
		return true
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		because := errors.New("the run was stopped")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, because)
		defer cancel()
		if _, err := e.Step(ctx, "wait"); !errors.Is(err, because) {
			t.Errorf("error %v, want %v", err, because)
		}
	})
}

// A reset is sent again after the connection was cut; a step is not, as it may
// have been made.
func TestCutConnections(t *testing.T) {
	s := newFake()
	s.reset = func(_ http.ResponseWriter, n int) bool {
		if n == 1 || n == 2 {
			panic(http.ErrAbortHandler)
		}
		return false
	}
	s.step = func(http.ResponseWriter, *http.Request, int) bool { panic(http.ErrAbortHandler) }
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		if _, err := e.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "connection was lost") {
			t.Errorf("error %v", err)
		}
		if resets, steps := s.called("/reset"), s.called("/step"); resets != 4 || steps != 1 {
			t.Errorf("%d resets and %d steps, want 4 with the trial and 1", resets, steps)
		}
	})
}

func TestStepAnswers(t *testing.T) {
	f := func(name string, body any, code int, wantErr, wantFeedback string) {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.step = func(w http.ResponseWriter, _ *http.Request, _ int) bool {
				w.WriteHeader(code)
				answer(w, body)
				return true
			}
			family := mustOpen(t, serve(t, s))
			t.Cleanup(func() { family.Close() })
			e, o := begin(t, family)
			step, err := e.Step(t.Context(), "x")
			if wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), wantErr) {
					t.Fatalf("error %v, want one with %q", err, wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if step.Observation.Feedback != wantFeedback || step.Observation.State != o.State || step.Done() {
				t.Errorf("step %+v, want feedback %q and the state unchanged", step, wantFeedback)
			}
		})
	}
	type m = map[string]any
	f("action refused", m{"error": "no such word"}, 400, "", "no such word")
	f("action refused by FastAPI", m{"detail": []m{{"loc": []any{"body", "action"}, "msg": "too short"}}}, 422, "", "body.action: too short")
	f("action refused without words", m{"error": ""}, 413, "", "The action was refused.")
	f("id refused by FastAPI", m{"detail": []m{{"loc": []any{"body", "id"}, "msg": "not an int"}}}, 422, "not an int", "")
	f("episode gone", m{"error": "no such episode"}, 404, "no such episode", "")
	f("server broken", m{"error": "division by zero"}, 500, "division by zero", "")
	f("error inside 200", m{"error": "out of memory"}, 200, "out of memory", "")
	f("no reward", m{"observation": "x", "terminated": false}, 200, `lacks "reward"`, "")
	f("no end", m{"observation": "x", "reward": 1}, 200, `lacks "terminated"`, "")
	f("words for a reward", m{"observation": "x", "reward": "much", "terminated": false}, 200, "not one of empo2-env", "")
}
