package agentgym

import (
	"net/http"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

func TestRefusedAtStart(t *testing.T) {
	f := func(name, dialect string, h http.Handler, change func(*Config), want ...string) {
		of := func(s exchange.Server) Config { return config(dialect, s) }
		remotetest.RefusedAtStart(t, Open, of)(name, h, change, want...)
	}
	broken := newFake("sciworld")
	broken.Before = remotetest.On("/reset", 0, remotetest.Always, answers(m{"error": "list index out of range"}))
	webPage := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) })
	only := remotetest.Only
	f("other greeting", "sciworld", newFake("alfworld"), nil, "AlfWorld", `set the dialect to "alfworld"`)
	f("one of several", "sciworld", newFake("wordle"), nil, `"maze" or "wordle"`)
	f("other fields", "webshop", newFake("weather"), nil, "body.id: Field required", "hint", `"weather"`)
	f("other answers", "sqlgym", newFake("webshop"), nil, "body.session_id", `"webshop"`)
	f("ORS", "sciworld", only("/list_environments", []string{"house"}), nil, "404", `env.name = "ors"`)
	f("OpenEnv", "sciworld", only("/health", m{"status": "healthy"}), nil, "404", `env.name = "openenv"`)
	f("plain schema", "sciworld", only("/", m{"protocol": "empo2-env", "version": 1}), nil, "404", `env.name = "remote"`)
	f("web page", "sciworld", webPage, nil, "not JSON", "hint")
	f("task refused", "sciworld", broken, nil, "task 1", "list index out of range")
	f("no server", "sciworld", nil, func(c *Config) { remotetest.NoServer(&c.Server) },
		"cannot be reached", "start AgentGym's server of sciworld")
	f("unknown dialect", "atari", nil, nil, `unknown dialect "atari"`, "sciworld")
	f("unknown task", "sciworld", nil, func(c *Config) { c.Test = numbered.Set{4639} }, "0 to 4638")
	f("no tasks", "babyai", nil, func(c *Config) { c.Splits = numbered.Splits{} }, `train = "0-99"`)
	f("concurrency", "sciworld", nil, func(c *Config) { c.Concurrency = -1 }, "negative")
}

// answers answers a request with status 200 and JSON.
func answers(body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { remotetest.Answer(w, body) }
}

// steps is a server that answers every step with do.
func steps(dialect string, do http.HandlerFunc) *fakeServer {
	s := newFake(dialect)
	s.Before = remotetest.On("/step", 0, remotetest.Always, do)
	return s
}

// AgentGym's own client repeats a step after a 503, and so does the driver.
func TestBusyServerIsAskedAgain(t *testing.T) {
	s := newFake("webshop")
	s.Before = remotetest.On("/step", 0, 4, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	driver("webshop").Bubble(t, s, func(t *testing.T, f *Family) {
		e, _ := remotetest.Begin(t, f)
		if _, err := e.Step(t.Context(), "search[x]"); err != nil {
			t.Error(err)
		}
		if n := s.Calls("/step"); n != 6 {
			t.Errorf("the step was sent %d times, want five refusals and an answer", n)
		}
	})
}

// A full sqlgym or webshop returns ids of environments that are in use. Two
// episodes must not share one.
func TestNoEnvironmentIsShared(t *testing.T) {
	s := newFake("webshop")
	s.maxEnvs = 1
	driver("webshop").WaitsForAPlace(t, s)
}

func TestHangingServer(t *testing.T) {
	s := steps("sciworld", remotetest.Hang)
	driver("sciworld").StepEndsAtItsDeadline(t, s, "no answer from http://env within 1m0s")
}

func TestCancelledStepSaysWhy(t *testing.T) {
	driver("sciworld").CancelledStepSaysWhy(t, steps("sciworld", remotetest.Hang))
}

// A restarted server does not know the environments that it had before: the
// running episode is lost, and the next one creates a new environment.
func TestRestartedServer(t *testing.T) {
	s := newFake("sciworld")
	driver("sciworld").Bubble(t, s, func(t *testing.T, f *Family) {
		restart := func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			clear(s.worlds)
		}
		s.next = 10
		e, _ := remotetest.Begin(t, f)
		restart()
		if _, err := e.Step(t.Context(), "look"); err == nil || !strings.Contains(err.Error(), "lost the environment") {
			t.Errorf("error %v", err)
		}
		remotetest.Finish(t, f)
		restart()
		remotetest.Finish(t, f)
	})
}

func TestStepAnswers(t *testing.T) {
	status := func(code int, body any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { remotetest.Status(w, code, body) }
	}
	wrong := func(field, message string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { unprocessable(w, field, message) }
	}
	f := func(name string, do http.HandlerFunc, check func(*testing.T, http.Handler)) {
		t.Run(name, func(t *testing.T) {
			s := steps("sciworld", do)
			check(t, s)
			if n := s.Calls("/step"); n != 1 {
				t.Errorf("the step was sent %d times", n)
			}
		})
	}
	feedback := func(want string) func(*testing.T, http.Handler) {
		return func(t *testing.T, h http.Handler) { driver("sciworld").Refuses(t, h, want) }
	}
	lost := func(want string) func(*testing.T, http.Handler) {
		return func(t *testing.T, h http.Handler) { driver("sciworld").LosesEpisode(t, h, want) }
	}
	f("error inside 200", answers(m{"error": "list index out of range"}), feedback("list index out of range"))
	f("action refused", wrong("action", "too long"), feedback("body.action: too long"))
	f("lost inside 200", answers(m{"error": "The task with environment 0 has been deleted."}),
		lost("lost the environment"))
	f("id refused", wrong("id", "unknown"), lost("body.id: unknown"))
	f("broken", status(500, "Internal Server Error"), lost("500"))
	f("bad gateway", status(502, ""), lost("502"))
	f("cut", remotetest.Abort, lost("connection was lost"))
	f("other version", answers(m{"state": "x", "reward": 0, "done": false}), lost("lacks observation"))
	f("no score", answers(m{"observation": "x", "reward": 0, "done": false}), lost("lacks score"))
	f("null", answers(nil), lost("lacks observation"))
}

// A broken environment answers everything with an error. Nothing may be
// trained on that.
func TestBrokenEnvironment(t *testing.T) {
	driver("sciworld").LosesABrokenEnvironment(t, steps("sciworld", answers(m{"error": "no Java"})))
}

// Environments are reused, dropped after an error, and deleted at the end.
func TestEnvironmentsAreReused(t *testing.T) {
	s := newFake("sciworld")
	f := driver("sciworld").Open(t, remotetest.Serve(t, s))
	t.Run("episodes", func(t *testing.T) {
		for range 3 {
			t.Run("", func(t *testing.T) { remotetest.Finish(t, f) })
		}
	})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if created, closed := s.Calls("/create"), s.Calls("/close"); created != 1 || closed != 1 {
		t.Errorf("%d environments created and %d closed, want one", created, closed)
	}
}
