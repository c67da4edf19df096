package remote

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
)

// fakeServer speaks the schema as the package comment has it. What a test puts
// into its functions comes first; an answer there is all of the answer.
type fakeServer struct {
	about any
	reset func(w http.ResponseWriter, n int) bool // n counts from 0
	step  func(w http.ResponseWriter, r *http.Request, n int) bool
	mu    sync.Mutex
	calls map[string]int
	open  map[string]*exchangetest.World
}

func newFake() *fakeServer {
	return &fakeServer{calls: map[string]int{}, open: map[string]*exchangetest.World{}, about: map[string]any{"protocol": protocol, "version": 1, "instruction": "Leave."}}
}

func (s *fakeServer) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[path]++
	return s.calls[path] - 1
}

// called is how often a path was asked for.
func (s *fakeServer) called(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[path]
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Seed       uint64
		ID, Action string
	}
	_ = json.NewDecoder(r.Body).Decode(&q)
	n := s.count(r.URL.Path)
	switch {
	case r.URL.Path == "/" && s.about != nil:
		answer(w, s.about)
	case r.URL.Path == "/reset" && (s.reset == nil || !s.reset(w, n)):
		s.mu.Lock()
		defer s.mu.Unlock()
		id, world := fmt.Sprint("e", n), exchangetest.NewWorld(q.Seed)
		s.open[id] = world
		answer(w, map[string]any{"id": id, "observation": world.Text()})
	case r.URL.Path == "/step" && (s.step == nil || !s.step(w, r, n)):
		s.act(w, q.ID, q.Action)
	case r.URL.Path == "/close":
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, q.ID)
		answer(w, map[string]any{})
	case r.URL.Path != "/reset" && r.URL.Path != "/step":
		http.NotFound(w, r)
	}
}

func (s *fakeServer) act(w http.ResponseWriter, id, action string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	world := s.open[id]
	if world == nil {
		w.WriteHeader(http.StatusNotFound)
		answer(w, map[string]any{"error": "no such episode"})
		return
	}
	reward, done := world.Act(action)
	if done {
		delete(s.open, id)
	}
	answer(w, map[string]any{"observation": world.Text(), "reward": reward, "terminated": done, "truncated": false, "info": map[string]any{}})
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// status answers with a status and a complaint.
func status(code int, complaint string) func(http.ResponseWriter, int) bool {
	return func(w http.ResponseWriter, _ int) bool {
		w.WriteHeader(code)
		answer(w, map[string]any{"error": complaint})
		return true
	}
}

// serve serves s on TCP until the test ends.
func serve(t *testing.T, s http.Handler) Config {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return config(exchange.Server{URL: server.URL})
}

func config(at exchange.Server) Config {
	return Config{Server: at, Splits: numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)}}
}
