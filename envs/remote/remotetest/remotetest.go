// Package remotetest is what the tests of remote environments share. Each test
// writes a fake server of its own protocol; this package has the rest:
//
//   - [World] is the environment behind every fake server.
//   - [Script] counts the requests of a fake server and lets a test answer some.
//   - [Serve], [ServeInMemory], [Open] and [Begin] set a test up.
//   - The scenarios (scenarios.go) are the checks that every driver must pass.
package remotetest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
)

// Serve serves h on TCP until the test ends.
func Serve(t *testing.T, h http.Handler) exchange.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return exchange.Server{URL: server.URL}
}

// ServeInMemory serves h without a network, so that time can be faked. Its URL
// is http://env.
func ServeInMemory(t *testing.T, h http.Handler) exchange.Server {
	t.Helper()
	return exchange.Server{URL: "http://env", Dial: exchangetest.Serve(t, h)}
}

// Open opens a family. The caller closes it.
func Open[C any, F envs.Family](t *testing.T, open func(context.Context, C) (F, error), c C) F {
	t.Helper()
	f, err := open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Begin opens and resets an episode of the first training task. The episode is
// closed at the end of the test, if the test has not closed it before.
func Begin(t *testing.T, f envs.Family) (envs.Episode, envs.Observation) {
	t.Helper()
	e := openEpisode(t, f)
	o, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e, o
}

func openEpisode(t *testing.T, f envs.Family) envs.Episode {
	t.Helper()
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := f.Open(t.Context(), tasks[0])
	if err != nil {
		t.Fatal(err)
	}
	e := &closedOnce{Episode: opened}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// closedOnce passes on the first call of Close only.
type closedOnce struct {
	envs.Episode
	once sync.Once
}

func (c *closedOnce) Close() (err error) {
	c.once.Do(func() { err = c.Episode.Close() })
	return err
}

// Finish plays an episode to its end, which is [WorldSteps] actions away. It
// returns the first observation and the last step.
func Finish(t *testing.T, f envs.Family) (envs.Observation, envs.Step) {
	t.Helper()
	e, first := Begin(t, f)
	for range WorldSteps - 1 {
		if step, err := e.Step(t.Context(), "go"); err != nil || step.Done() {
			t.Fatalf("step %+v, error %v", step, err)
		}
	}
	last, err := e.Step(t.Context(), "go")
	if err != nil {
		t.Fatal(err)
	}
	return first, last
}

// Answer answers a request with JSON.
func Answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// Status answers a request with a status and JSON.
func Status(w http.ResponseWriter, code int, v any) {
	w.WriteHeader(code)
	Answer(w, v)
}
