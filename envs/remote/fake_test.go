package remote

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

type m = map[string]any

// fakeServer speaks the schema of the package comment.
type fakeServer struct {
	remotetest.Script
	about any // nil: GET / is unknown
	mu    sync.Mutex
	open  map[string]*remotetest.World
	next  int
}

func newFake() *fakeServer {
	about := m{"protocol": protocol, "version": 1, "instruction": "Leave."}
	return &fakeServer{open: map[string]*remotetest.World{}, about: about}
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Seed       uint64
		ID, Action string
	}
	_ = json.NewDecoder(r.Body).Decode(&q)
	if s.Answered(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.URL.Path == "/" && s.about != nil:
		remotetest.Answer(w, s.about)
	case r.URL.Path == "/reset":
		id, world := fmt.Sprint("e", s.next), remotetest.NewWorld(q.Seed)
		s.open[id] = world
		s.next++
		remotetest.Answer(w, m{"id": id, "observation": world.Text()})
	case r.URL.Path == "/step":
		s.act(w, q.ID, q.Action)
	case r.URL.Path == "/close":
		delete(s.open, q.ID)
		remotetest.Answer(w, m{})
	default:
		http.NotFound(w, r)
	}
}

func (s *fakeServer) act(w http.ResponseWriter, id, action string) {
	world := s.open[id]
	if world == nil {
		remotetest.Status(w, http.StatusNotFound, m{"error": "no such episode"})
		return
	}
	reward, done := world.Act(action)
	if done {
		delete(s.open, id)
	}
	remotetest.Answer(w, m{
		"observation": world.Text(), "reward": reward, "terminated": done, "truncated": false, "info": m{},
	})
}

// status answers with a status and JSON.
func status(code int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { remotetest.Status(w, code, body) }
}

func config(s exchange.Server) Config {
	return Config{Server: s, Splits: numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)}}
}

// driver opens families with the default configuration.
var driver = remotetest.Driver[*Family]{Open: func(t *testing.T, s exchange.Server) *Family {
	t.Helper()
	return remotetest.Open(t, Open, config(s))
}}
