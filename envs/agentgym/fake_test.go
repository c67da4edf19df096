package agentgym

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
)

type m = map[string]any

// shape is what one of the real servers answers, written down from its source
// and apart from the table under test.
type shape struct {
	greeting, prefix, id, index string
	create                      func(id int) any
	reset, step                 func(w *exchangetest.World, reward float64, done bool) any
	maxEnvs                     int // beyond them, the first ones are handed out again
}

func idObject(id int) any { return m{"id": id} }
func bareID(id int) any   { return id }

var shapes = map[string]shape{
	"sciworld": {"This is environment ScienceWorld.", "", "id", "data_idx", idObject,
		func(w *exchangetest.World, _ float64, _ bool) any {
			return m{"task_name": "boil", "var_num": 0, "task_description": "Boil it.", "observation": w.Text(), "reward": 0, "score": 0, "deleted": false, "done": false}
		},
		func(w *exchangetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": 100 * reward, "score": 100 * reward, "done": done}
		}, 0},
	"alfworld": {"This is environment AlfWorld.", "", "id", "game", idObject,
		func(w *exchangetest.World, _ float64, _ bool) any {
			return m{"id": 0, "observation": w.Text(), "available_actions": []string{"look", "go to desk 1"}, "task_type": "x"}
		},
		func(w *exchangetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "available_actions": []string{"look"}, "done": done}
		}, 0},
	"wordle": {"This is environment LMRL-Gym.", "/wordle", "id", "seed", idObject,
		func(w *exchangetest.World, _ float64, _ bool) any { return m{"id": 0, "observation": w.Text()} },
		func(w *exchangetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "done": done}
		}, 0},
	"webshop": {"ok", "", "env_idx", "session_id", bareID,
		func(w *exchangetest.World, _ float64, _ bool) any { return []any{w.Text(), nil} },
		func(w *exchangetest.World, reward float64, done bool) any {
			return m{"state": w.Text(), "reward": reward, "done": done, "info": nil}
		}, 0},
	"weather": {"ok", "", "env_idx", "id", bareID,
		func(w *exchangetest.World, _ float64, _ bool) any { return w.Text() },
		func(w *exchangetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "done": done}
		}, 0},
}

// fakeServer serves a shape. What a test puts into before comes first; true
// from it is all of the answer.
type fakeServer struct {
	shape
	before func(w http.ResponseWriter, r *http.Request, n int) bool // n counts the path's calls from 0
	mu     sync.Mutex
	calls  map[string]int
	worlds map[int]*exchangetest.World // nil: created, not reset
	next   int
}

func newFake(dialect string) *fakeServer {
	return &fakeServer{shape: shapes[dialect], calls: map[string]int{}, worlds: map[int]*exchangetest.World{}}
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
	var q map[string]any
	badBody := json.NewDecoder(r.Body).Decode(&q)
	if n := s.count(r.URL.Path); s.before != nil && s.before(w, r, n) {
		return
	}
	if r.URL.Path == "/" {
		answer(w, s.greeting)
		return
	}
	if badBody != nil {
		unprocessable(w, "body", badBody.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch path := strings.TrimPrefix(r.URL.Path, s.prefix); path {
	case "/create":
		answer(w, s.shape.create(s.create()))
	case "/reset", "/step", "/close":
		id, ok := q[s.id].(float64)
		if !ok {
			unprocessable(w, s.id, "Field required")
			return
		}
		s.serve(w, path, int(id), q)
	default:
		http.NotFound(w, r)
	}
}

func (s *fakeServer) create() int {
	id := s.next
	if s.next++; s.maxEnvs > 0 {
		id %= s.maxEnvs
	}
	s.worlds[id] = nil
	return id
}

func (s *fakeServer) serve(w http.ResponseWriter, path string, id int, q map[string]any) {
	world, ok := s.worlds[id]
	if !ok {
		answer(w, m{"error": fmt.Sprintf("The id %d is not valid.", id)})
		return
	}
	switch path {
	case "/close":
		delete(s.worlds, id)
		answer(w, true)
	case "/reset":
		index, ok := q[s.index].(float64)
		if !ok {
			unprocessable(w, s.index, "Field required")
			return
		}
		s.worlds[id] = exchangetest.NewWorld(uint64(index))
		answer(w, s.reset(s.worlds[id], 0, false))
	case "/step":
		reward, done := world.Act(q["action"].(string))
		answer(w, s.step(world, reward, done))
	}
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// unprocessable answers as FastAPI does.
func unprocessable(w http.ResponseWriter, field, message string) {
	w.WriteHeader(http.StatusUnprocessableEntity)
	answer(w, m{"detail": []m{{"loc": []string{"body", field}, "msg": message}}})
}

// config is that of a family on s.
func config(dialect string, s exchange.Server) Config {
	return Config{Server: s, Dialect: dialect, Splits: numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)}}
}

func serve(t *testing.T, h http.Handler) exchange.Server {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return exchange.Server{URL: server.URL}
}

func mustOpen(t *testing.T, c Config) *Family {
	t.Helper()
	f, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
