package ors

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/envs/remote/remotetest"
)

// calls is a server that answers every tool call by do.
func calls(do http.HandlerFunc) *fakeServer { return server("/call", 0, remotetest.Always, do) }

// small is a server with room for one environment.
func small() *fakeServer {
	s := newFake()
	s.capacity = 1
	return s
}

// A session is kept alive while the policy generates: the server gets a ping
// every ten seconds, and none after the episode is closed.
func TestSessionIsKeptAlive(t *testing.T) {
	s := newFake()
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		e, _ := remotetest.Begin(t, f)
		time.Sleep(time.Minute + time.Second)
		if n := s.Calls("/ping"); n != 6 {
			t.Errorf("%d pings in a minute, want 6", n)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if n := s.Calls("/ping"); n != 6 {
			t.Errorf("%d pings, want none after the end", n)
		}
	})
}

func TestFullServerIsAskedAgain(t *testing.T) { driver.WaitsForAPlace(t, small()) }

func TestPatienceEnds(t *testing.T) {
	s := small()
	driver.GivesUpOnAFullServer(t, s, "no room", func(t *testing.T) {
		if created, deleted := s.Calls("/create_session"), s.Calls("/delete_session"); created != deleted+1 {
			t.Errorf("%d sessions were created and %d deleted, want all but one", created, deleted)
		}
	})
}

func TestHangingToolEndsAtItsDeadline(t *testing.T) {
	f := func(name string, do http.HandlerFunc) {
		t.Run(name, func(t *testing.T) {
			driver.StepEndsAtItsDeadline(t, calls(do), "no answer from http://env within 1m0s")
		})
	}
	f("no answer", remotetest.Hang)
	f("unfinished stream", func(w http.ResponseWriter, r *http.Request) {
		stream(w, "task_id", "call-x")
		remotetest.Hang(w, r)
	})
}

func TestCancelledStepSaysWhy(t *testing.T) { driver.CancelledStepSaysWhy(t, calls(remotetest.Hang)) }

// A server that does not answer the end of a session delays Close until its
// deadline.
func TestHangingEndOfASession(t *testing.T) {
	s := server("/delete", 1, remotetest.Always, remotetest.Hang)
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		e, _ := remotetest.Begin(t, f)
		start := time.Now()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != endTimeout {
			t.Errorf("close took %v, want %v", took, endTimeout)
		}
	})
}

// An environment that is still starting is asked again in its session.
func TestSlowStart(t *testing.T) {
	const refusals = 30
	s := server("/prompt", 1, refusals, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "2")
		refuse(w, http.StatusServiceUnavailable, "Environment still starting.")
	})
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		start := time.Now()
		remotetest.Begin(t, f)
		if took := time.Since(start); took < refusals*2*time.Second {
			t.Errorf("%d refusals with Retry-After 2 took %v", refusals, took)
		}
		if prompts, created := s.Calls("/house/prompt"), s.Calls("/create"); prompts != refusals+2 || created != 2 {
			t.Errorf("%d prompts and %d environments, want %d and 2, the trial's among them",
				prompts, created, refusals+2)
		}
	})
}

// A session that is lost before the prompt is replaced by another.
func TestCutResetIsRepeated(t *testing.T) {
	for _, path := range []string{"/create_session", "/create", "/prompt"} {
		s := server(path, 1, 2, remotetest.Abort)
		driver.Bubble(t, s, func(t *testing.T, f *Family) {
			e, _ := remotetest.Begin(t, f)
			if err := e.Close(); err != nil || s.environments() != 0 {
				t.Errorf("%s: error %v, %d environments left", path, err, s.environments())
			}
		})
	}
}

// A stream that is cut after its task_id is resumed, so the tool acts once. A
// stream that is cut earlier loses the episode, as the tool may have acted.
func TestCutStreams(t *testing.T) {
	const result = `{"ok":true,"output":{"blocks":[{"type":"text","text":"acted"}],"reward":0.5,"finished":false}}`
	s := newFake()
	s.Before = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != "/house/call" || n > 1 {
			return false
		}
		if n == 0 {
			s.mu.Lock()
			s.results["call-x"] = result
			s.mu.Unlock()
			stream(w, "task_id", "call-x")
		}
		panic(http.ErrAbortHandler)
	}
	driver.Bubble(t, s, func(t *testing.T, f *Family) {
		e, _ := remotetest.Begin(t, f)
		step, err := e.Step(t.Context(), "go")
		if err != nil || step.Reward != 0.5 || step.Observation.State != "acted" {
			t.Errorf("step %+v, error %v", step, err)
		}
		if n := s.Calls("/house/call"); n != 3 {
			t.Errorf("%d requests, want two cut ones and an answer", n)
		}
		s.Before = remotetest.On("/call", 3, remotetest.Always, remotetest.Abort)
		if _, err := e.Step(t.Context(), "go"); err == nil || !strings.Contains(err.Error(), "connection was lost") {
			t.Errorf("error %v", err)
		}
		if n := s.Calls("/house/call"); n != 4 {
			t.Errorf("%d requests, want no repetition of the last", n)
		}
	})
}

// A restarted server does not know the task_id.
func TestForgottenCall(t *testing.T) {
	driver.LosesEpisode(t, server("/call", 0, 0, func(w http.ResponseWriter, _ *http.Request) {
		stream(w, "task_id", "call-y")
		panic(http.ErrAbortHandler)
	}), "unknown task_id")
}

func TestStepAnswers(t *testing.T) {
	event := func(name, data string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { stream(w, name, data) }
	}
	status := func(code int, detail string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { refuse(w, code, detail) }
	}
	feedback := func(name string, do http.HandlerFunc, want string) {
		t.Run(name, func(t *testing.T) { driver.Refuses(t, calls(do), want) })
	}
	lost := func(name string, do http.HandlerFunc, want string) {
		t.Run(name, func(t *testing.T) { driver.LosesEpisode(t, calls(do), want) })
	}
	const invalid = "Tool input validation error: n"
	feedback("input refused by the tool", event("end", `{"ok":false,"error":"`+invalid+`"}`), invalid)
	feedback("exception of the tool", event("error", "division by zero"), "division by zero")
	feedback("request refused", status(http.StatusUnprocessableEntity, "too deep"), "too deep")
	lost("unknown session", status(http.StatusNotFound, "Active environment not found"), "Active environment not found")
	lost("server fails", status(http.StatusInternalServerError, "RuntimeError"), "RuntimeError")
	lost("error in a 200", func(w http.ResponseWriter, _ *http.Request) { remotetest.Answer(w, m{"error": "x"}) },
		"not a stream of events")
	lost("not JSON", event("end", "ok"), "not in the format of ORS")
	lost("no output", event("end", `{"ok":true}`), "not in the format of ORS")
	lost("reward of another type", event("end", `{"ok":true,"output":{"blocks":[],"reward":"much","finished":false}}`),
		"not in the format of ORS")
}

func TestBrokenEnvironment(t *testing.T) {
	driver.LosesABrokenEnvironment(t, calls(func(w http.ResponseWriter, _ *http.Request) {
		stream(w, "error", "no engine")
	}))
}
