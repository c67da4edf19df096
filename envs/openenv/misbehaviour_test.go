package openenv

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/turns"
)

const forEver = 1 << 30

// on limits what before does to a kind of message and to some of them.
func on(kind string, from, to int, do func(*websocket.Conn)) func(*websocket.Conn, string, int) bool {
	return func(c *websocket.Conn, got string, n int) bool {
		if got != kind || n < from || n > to {
			return false
		}
		do(c)
		return true
	}
}

func reply(kind string, from, to int, answer string, data any) func(*websocket.Conn, string, int) bool {
	return on(kind, from, to, func(c *websocket.Conn) { send(c, answer, data) })
}

// inBubble opens a family in fake time.
func inBubble(t *testing.T, s *fakeServer, test func(*testing.T, *Family)) {
	synctest.Test(t, func(t *testing.T) {
		f := mustOpen(t, config(exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, s)}))
		t.Cleanup(func() { f.Close() })
		test(t, f)
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
		_, err := (&episode{family: f}).Reset(t.Context())
		if took := time.Since(start); err == nil || took != 5*time.Minute || !strings.Contains(err.Error(), "max_concurrent_envs") {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

// The server's pings are answered while the policy thinks.
func TestPingsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, pinged := newFake(), make(chan error, 1)
		s.before = on("reset", 1, 1, func(c *websocket.Conn) {
			observe(c, exchangetest.NewWorld(1), nil, false) // first: a pipe has no buffer for an answer beside the pong
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				pinged <- c.Ping(ctx)
			}()
		})
		f := mustOpen(t, config(exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, s)}))
		defer f.Close()
		e, _ := begin(t, f)
		defer e.Close()
		if err := <-pinged; err != nil {
			t.Errorf("ping: %v", err)
		}
	})
}

func TestHangingStepEndsAtItsDeadline(t *testing.T) {
	s := newFake()
	s.before = on("step", 0, forEver, func(*websocket.Conn) {})
	inBubble(t, s, func(t *testing.T, f *Family) {
		e, _ := begin(t, f)
		defer e.Close()
		start := time.Now()
		_, err := e.Step(t.Context(), "wait")
		if took := time.Since(start); err == nil || took != time.Minute || !strings.Contains(err.Error(), "no answer to step within 1m0s") {
			t.Errorf("error %v after %v", err, took)
		}
	})
}

func TestCancelledStepSaysWhy(t *testing.T) {
	s := newFake()
	s.before = on("step", 0, forEver, func(*websocket.Conn) {})
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

// A connection that is lost before the first observation is opened again; one
// that is lost later takes the episode with it, but not the next.
func TestCutConnections(t *testing.T) {
	s := newFake()
	s.before = func(c *websocket.Conn, kind string, n int) bool {
		cut := kind == "reset" && (n == 1 || n == 2) || kind == "step" && n == 0
		if cut {
			_ = c.CloseNow()
		}
		return cut
	}
	inBubble(t, s, func(t *testing.T, f *Family) {
		lost, _ := begin(t, f)
		if _, err := lost.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "connection was lost") {
			t.Errorf("error %v", err)
		}
		if err := lost.Close(); err != nil {
			t.Error(err)
		}
		next, _ := begin(t, f)
		defer next.Close()
		if _, err := next.Step(t.Context(), "go"); err != nil {
			t.Error(err)
		}
	})
}

func TestStepAnswers(t *testing.T) {
	f := func(name, kind string, data any, wantErr, wantFeedback string) {
		t.Run(name, func(t *testing.T) {
			s := newFake()
			s.before = reply("step", 0, forEver, kind, data)
			family := mustOpen(t, config(serve(t, s)))
			defer family.Close()
			e, o := begin(t, family)
			defer e.Close()
			step, err := e.Step(t.Context(), "x")
			switch {
			case wantErr == "" && err == nil:
				if step.Observation.Feedback != wantFeedback || step.Observation.State != o.State || step.Done() {
					t.Errorf("step %+v, want feedback %q and the state unchanged", step, wantFeedback)
				}
			case err == nil || wantErr == "" || !strings.Contains(err.Error(), wantErr):
				t.Errorf("error %v, want one with %q", err, wantErr)
			}
		})
	}
	f("action refused", "error", m{"code": "VALIDATION_ERROR", "message": "Invalid message", "errors": []m{{"loc": []any{"message"}, "msg": "too long"}}}, "", "Invalid message; [message]: too long")
	f("environment complains", "error", m{"code": "EXECUTION_ERROR", "message": "bad move"}, "", "bad move")
	f("session broken", "error", m{"code": "SESSION_ERROR", "message": "gone"}, "SESSION_ERROR: gone", "")
	f("unknown type", "error", m{"code": "UNKNOWN_TYPE", "message": "step?"}, "UNKNOWN_TYPE", "")
	f("other answer", "state", m{"step_count": 1}, "not one of OpenEnv", "")
	f("no observation", "observation", m{"reward": 1, "done": false}, "not one of OpenEnv", "")
	f("words for a reward", "observation", m{"observation": m{}, "reward": "much"}, "not one of OpenEnv", "")
}

func TestEnvironmentInRuins(t *testing.T) {
	s := newFake()
	s.before = reply("step", 0, forEver, "error", m{"code": "EXECUTION_ERROR", "message": "no engine"})
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
