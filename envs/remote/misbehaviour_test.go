package remote

import (
	"net/http"
	"testing"
	"time"

	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

func TestRefusedAtStart(t *testing.T) {
	f := remotetest.RefusedAtStart(t, Open, config)
	only := remotetest.Only
	newer := newFake()
	newer.about = m{"protocol": protocol, "version": 2}
	webPage := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
	f("newer version", newer, nil, "version 2", "hint", `"version": 1`)
	f("other protocol", only("/", m{"protocol": "gopher"}), nil, `"gopher"`, "hint")
	f("OpenEnv", only("/health", m{"status": "healthy"}), nil, "404", `env.name = "openenv"`)
	f("AgentGym", only("/", "This is environment BabyAI."), nil, "404", `env.name = "agentgym"`)
	f("web page", webPage, nil, "not JSON", "hint")
	f("reset without id", only("/reset", m{"observation": "x"}), nil, `lacks "id"`, "hint")
	f("reset with another observation", only("/reset", m{"id": 1, "observation": []int{1}}), nil,
		"neither a text", "hint")
	own := newFake()
	own.Before = remotetest.On("/reset", 0, remotetest.Always, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("[1]"))
	})
	f("its own protocol, and a wrong answer", own, nil, "it is a list", "the server speaks this protocol", "./envs/remote")
	f("error inside 200", only("/reset", m{"error": "no such world"}), nil, "no such world")
	f("locked", status(http.StatusUnauthorized, nil), nil, "401", "token")
	f("no server", nil, func(c *Config) { remotetest.NoServer(&c.Server) },
		"cannot be reached", "start the environment's server")
	f("no url", nil, func(c *Config) { c.URL = "localhost:8000" }, "http://host:port")
	f("no tasks", newFake(), func(c *Config) { c.Train = nil }, `train = "0-99"`)
	f("leak", newFake(), func(c *Config) { c.Test = numbered.Set{1} }, "in train and in test")
	f("concurrency", newFake(), func(c *Config) { c.Concurrency = -1 }, "negative")
}

// steps is a server that answers every step with do.
func steps(do http.HandlerFunc) *fakeServer {
	s := newFake()
	s.Before = remotetest.On("/step", 0, remotetest.Always, do)
	return s
}

func TestFullServerIsAskedAgain(t *testing.T) {
	const refusals = 9
	s := newFake()
	s.Before = remotetest.On("/reset", 1, refusals, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3")
		remotetest.Status(w, http.StatusServiceUnavailable, m{"error": "full"})
	})
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		start := time.Now()
		remotetest.Begin(t, f)
		if took := time.Since(start); took < refusals*3*time.Second {
			t.Errorf("%d refusals with Retry-After 3 took %v", refusals, took)
		}
		if n := s.Calls("/reset"); n != refusals+2 {
			t.Errorf("%d resets, want the trial's, %d refusals and an answer", n, refusals)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	s := newFake()
	full := status(http.StatusTooManyRequests, m{"error": "full"})
	s.Before = remotetest.On("/reset", 2, remotetest.Always, full)
	driver.GivesUpOnAFullServer(t, s, "full", nil)
}

func TestHangingStepEndsAtItsDeadline(t *testing.T) {
	driver.StepEndsAtItsDeadline(t, steps(remotetest.Hang), "no answer from http://env within 1m0s")
}

func TestCancelledStepSaysWhy(t *testing.T) {
	driver.CancelledStepSaysWhy(t, steps(remotetest.Hang))
}

// A reset is sent again after the connection was cut. A step is not, as the
// server may have acted.
func TestCutConnections(t *testing.T) {
	s := newFake()
	s.Before = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == "/step" || r.URL.Path == "/reset" && (n == 1 || n == 2) {
			remotetest.Abort(w, r)
		}
		return false
	}
	driver.LosesEpisode(t, s, "connection was lost")
	if resets, steps := s.Calls("/reset"), s.Calls("/step"); resets != 4 || steps != 1 {
		t.Errorf("%d resets and %d steps, want 4 with the trial and 1", resets, steps)
	}
}

func TestStepAnswers(t *testing.T) {
	feedback := func(name string, code int, body any, want string) {
		t.Run(name, func(t *testing.T) { driver.Refuses(t, steps(status(code, body)), want) })
	}
	fastAPI := func(field, message string) m { return m{"detail": []m{{"loc": []any{"body", field}, "msg": message}}} }
	feedback("action refused", 400, m{"error": "no such word"}, "no such word")
	feedback("action refused by FastAPI", 422, fastAPI("action", "too short"), "body.action: too short")
	feedback("action refused without words", 413, m{"error": ""}, "The action was refused.")
	lost := func(name string, code int, body any, want string) {
		t.Run(name, func(t *testing.T) { driver.LosesEpisode(t, steps(status(code, body)), want) })
	}
	lost("id refused by FastAPI", 422, fastAPI("id", "not an int"), "not an int")
	lost("unknown episode", 404, m{"error": "no such episode"}, "no such episode")
	lost("server broken", 500, m{"error": "division by zero"}, "division by zero")
	lost("error inside 200", 200, m{"error": "out of memory"}, "out of memory")
	lost("no reward", 200, m{"observation": "x", "terminated": false}, `lacks "reward"`)
	lost("no end", 200, m{"observation": "x", "reward": 1}, `lacks "terminated"`)
	lost("reward of another type", 200, m{"observation": "x", "reward": "much", "terminated": false},
		"not one of empo2-env")
}
