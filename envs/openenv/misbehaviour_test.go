package openenv

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/empo2/empo2/envs/remote/remotetest"
)

// on answers the messages first to last (counted from 0) of a kind.
func on(kind string, first, last int, do func(*websocket.Conn)) reply {
	return func(c *websocket.Conn, got string, n int) bool {
		if got != kind || n < first || n > last {
			return false
		}
		do(c)
		return true
	}
}

// always answers every message of a kind.
func always(kind, answer string, data any) reply {
	return on(kind, 0, remotetest.Always, func(c *websocket.Conn) { send(c, answer, data) })
}

// server is a fake server with a reply.
func server(before reply) *fakeServer {
	s := newFake()
	s.before = before
	return s
}

// silent is a server that does not answer steps.
func silent() *fakeServer {
	return server(on("step", 0, remotetest.Always, func(*websocket.Conn) {}))
}

// small is a server with one session.
func small() *fakeServer {
	s := newFake()
	s.capacity = 1
	return s
}

func TestFullServerIsAskedAgain(t *testing.T) { driver.WaitsForAPlace(t, small()) }

func TestPatienceEnds(t *testing.T) {
	driver.GivesUpOnAFullServer(t, small(), "max_concurrent_envs", nil)
}

func TestHangingStepEndsAtItsDeadline(t *testing.T) {
	driver.StepEndsAtItsDeadline(t, silent(), "no answer to step within 1m0s")
}

func TestCancelledStepSaysWhy(t *testing.T) { driver.CancelledStepSaysWhy(t, silent()) }

// The server's pings are answered while the policy generates.
func TestPingsAreAnswered(t *testing.T) {
	pinged := make(chan error, 1)
	s := server(on("reset", 1, 1, func(c *websocket.Conn) {
		observe(c, remotetest.NewWorld(1), nil, false) // before the ping, as a pipe has no buffer
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			pinged <- c.Ping(ctx)
		}()
	}))
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		remotetest.Begin(t, f)
		if err := <-pinged; err != nil {
			t.Errorf("ping: %v", err)
		}
	})
}

// A connection that is lost before the first observation is opened again. One
// that is lost later ends the episode, but not the next episode.
func TestCutConnections(t *testing.T) {
	s := server(func(c *websocket.Conn, kind string, n int) bool {
		cut := kind == "reset" && (n == 1 || n == 2) || kind == "step" && n == 0
		if cut {
			_ = c.CloseNow()
		}
		return cut
	})
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		lost, _ := remotetest.Begin(t, f)
		if _, err := lost.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "connection was lost") {
			t.Errorf("error %v", err)
		}
		if err := lost.Close(); err != nil {
			t.Error(err)
		}
		next, _ := remotetest.Begin(t, f)
		if _, err := next.Step(t.Context(), "go"); err != nil {
			t.Error(err)
		}
	})
}

func TestStepAnswers(t *testing.T) {
	feedback := func(name string, data m, want string) {
		t.Run(name, func(t *testing.T) { driver.Refuses(t, server(always("step", "error", data)), want) })
	}
	lost := func(name, kind string, data m, want string) {
		t.Run(name, func(t *testing.T) { driver.LosesEpisode(t, server(always("step", kind, data)), want) })
	}
	tooLong := []m{{"loc": []any{"message"}, "msg": "too long"}}
	feedback("action refused", m{"code": "VALIDATION_ERROR", "message": "Invalid message", "errors": tooLong},
		"Invalid message; [message]: too long")
	feedback("error of the environment", m{"code": "EXECUTION_ERROR", "message": "bad move"}, "bad move")
	lost("session broken", "error", m{"code": "SESSION_ERROR", "message": "gone"}, "SESSION_ERROR: gone")
	lost("unknown type", "error", m{"code": "UNKNOWN_TYPE", "message": "step?"}, "UNKNOWN_TYPE")
	lost("other answer", "state", m{"step_count": 1}, "not one of OpenEnv")
	lost("no observation", "observation", m{"reward": 1, "done": false}, "not one of OpenEnv")
	lost("reward of another type", "observation", m{"observation": m{}, "reward": "much"}, "not one of OpenEnv")
}

func TestBrokenEnvironment(t *testing.T) {
	noEngine := m{"code": "EXECUTION_ERROR", "message": "no engine"}
	driver.LosesABrokenEnvironment(t, server(always("step", "error", noEngine)))
}
