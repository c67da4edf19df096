package agentgym

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

type m = map[string]any

// A shape has the answers of one of the real servers. It is taken from the source
// of the server, independently of the table under test.
type shape struct {
	greeting, prefix, id, index string
	create                      func(id int) any
	reset, step                 func(w *remotetest.World, reward float64, done bool) any
	maxEnvs                     int // 0: no limit; a full server returns ids that are in use
}

func idObject(id int) any { return m{"id": id} }
func bareID(id int) any   { return id }

var shapes = map[string]shape{
	"sciworld": {"This is environment ScienceWorld.", "", "id", "data_idx", idObject,
		func(w *remotetest.World, _ float64, _ bool) any {
			return m{
				"task_name": "boil", "var_num": 0, "task_description": "Boil it.", "observation": w.Text(),
				"reward": 0, "score": 0, "deleted": false, "done": false,
			}
		},
		func(w *remotetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": 100 * reward, "score": 100 * reward, "done": done}
		}, 0},
	"alfworld": {"This is environment AlfWorld.", "", "id", "game", idObject,
		func(w *remotetest.World, _ float64, _ bool) any {
			return m{"id": 0, "observation": w.Text(), "available_actions": []string{"look", "go to desk 1"}, "task_type": "x"}
		},
		func(w *remotetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "available_actions": []string{"look"}, "done": done}
		}, 0},
	"wordle": {"This is environment LMRL-Gym.", "/wordle", "id", "seed", idObject,
		func(w *remotetest.World, _ float64, _ bool) any { return m{"id": 0, "observation": w.Text()} },
		func(w *remotetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "done": done}
		}, 0},
	"webshop": {"ok", "", "env_idx", "session_id", bareID,
		func(w *remotetest.World, _ float64, _ bool) any { return []any{w.Text(), nil} },
		func(w *remotetest.World, reward float64, done bool) any {
			return m{"state": w.Text(), "reward": reward, "done": done, "info": nil}
		}, 0},
	"weather": {"ok", "", "env_idx", "id", bareID,
		func(w *remotetest.World, _ float64, _ bool) any { return w.Text() },
		func(w *remotetest.World, reward float64, done bool) any {
			return m{"observation": w.Text(), "reward": reward, "done": done}
		}, 0},
}

// fakeServer serves a shape.
type fakeServer struct {
	remotetest.Script
	shape
	mu     sync.Mutex
	worlds map[int]*remotetest.World // nil: created, not reset
	next   int
}

func newFake(dialect string) *fakeServer {
	return &fakeServer{shape: shapes[dialect], worlds: map[int]*remotetest.World{}}
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q map[string]any
	badBody := json.NewDecoder(r.Body).Decode(&q)
	if s.Answered(w, r) {
		return
	}
	if r.URL.Path == "/" {
		remotetest.Answer(w, s.greeting)
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
		remotetest.Answer(w, s.shape.create(s.create()))
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
		remotetest.Answer(w, m{"error": fmt.Sprintf("The id %d is not valid.", id)})
		return
	}
	switch path {
	case "/close":
		delete(s.worlds, id)
		remotetest.Answer(w, true)
	case "/reset":
		index, ok := q[s.index].(float64)
		if !ok {
			unprocessable(w, s.index, "Field required")
			return
		}
		s.worlds[id] = remotetest.NewWorld(uint64(index))
		remotetest.Answer(w, s.reset(s.worlds[id], 0, false))
	case "/step":
		reward, done := world.Act(q["action"].(string))
		remotetest.Answer(w, s.step(world, reward, done))
	}
}

// unprocessable answers as FastAPI does.
func unprocessable(w http.ResponseWriter, field, message string) {
	detail := m{"loc": []string{"body", field}, "msg": message}
	remotetest.Status(w, http.StatusUnprocessableEntity, m{"detail": []m{detail}})
}

// config is the configuration of a family on s.
func config(dialect string, s exchange.Server) Config {
	splits := numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)}
	return Config{Server: s, Dialect: dialect, Splits: splits}
}

// driver opens families of a dialect.
func driver(dialect string) remotetest.Driver[*Family] {
	return remotetest.Driver[*Family]{Open: func(t *testing.T, s exchange.Server) *Family {
		t.Helper()
		return remotetest.Open(t, Open, config(dialect, s))
	}}
}
