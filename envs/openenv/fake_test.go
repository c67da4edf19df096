package openenv

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
)

type m = map[string]any

// fakeServer speaks as OpenEnv's http_server.py does. What a test puts into
// before comes first; true from it is all of the answer to a message, and
// nothing more is read after the connection was ended.
type fakeServer struct {
	action   m // the schema of an action
	capacity int
	before   func(c *websocket.Conn, kind string, n int) bool // n counts the kind's messages from 0
	mu       sync.Mutex
	calls    map[string]int
	sessions int
}

func newFake() *fakeServer {
	return &fakeServer{
		capacity: 8, calls: map[string]int{},
		action: m{"additionalProperties": false, "required": []string{"message"}, "properties": m{"message": m{"type": "string"}, "metadata": m{"type": "object"}}},
	}
}

func (s *fakeServer) count(kind string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[kind]++
	return s.calls[kind] - 1
}

// enter takes one of the sessions there are.
func (s *fakeServer) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions >= s.capacity {
		return false
	}
	s.sessions++
	return true
}

func (s *fakeServer) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions--
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/health":
		_ = json.NewEncoder(w).Encode(m{"status": "healthy"})
	case "/schema":
		_ = json.NewEncoder(w).Encode(m{"action": s.action, "observation": m{}, "state": m{}})
	case "/ws":
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		if !s.enter() {
			send(conn, "error", m{"message": "no room", "code": "CAPACITY_REACHED", "active_sessions": s.capacity})
			_ = conn.Close(websocket.StatusNormalClosure, "")
			return
		}
		defer s.leave()
		conn.SetReadLimit(maxMessage)
		s.serve(conn)
	default:
		http.NotFound(w, r)
	}
}

func (s *fakeServer) serve(conn *websocket.Conn) {
	var world *exchangetest.World
	for {
		_, raw, err := conn.Read(context.Background())
		if err != nil {
			return
		}
		var q struct {
			Type string
			Data struct {
				Seed    uint64
				Message *string
			}
		}
		bad := json.Unmarshal(raw, &q)
		n := s.count(q.Type)
		switch {
		case s.before != nil && s.before(conn, q.Type, n):
		case bad != nil || q.Type == "step" && q.Data.Message == nil:
			send(conn, "error", m{"message": "Invalid message", "code": "VALIDATION_ERROR", "errors": []m{{"loc": []string{"message"}, "msg": "Field required"}}})
		case q.Type == "close":
			return
		case q.Type == "reset":
			world = exchangetest.NewWorld(q.Data.Seed)
			observe(conn, world, nil, false)
		case q.Type == "step":
			reward, done := world.Act(*q.Data.Message)
			observe(conn, world, reward, done)
		}
	}
}

func observe(conn *websocket.Conn, w *exchangetest.World, reward any, done bool) {
	send(conn, "observation", m{"reward": reward, "done": done, "observation": m{
		"prompt": w.Text(), "messages": []m{{"content": "old"}, {"content": "new"}}, "info": nil,
	}})
}

func send(conn *websocket.Conn, kind string, data any) {
	raw, err := json.Marshal(m{"type": kind, "data": data})
	if err == nil {
		_ = conn.Write(context.Background(), websocket.MessageText, raw) // the client may be gone
	}
}

func config(at exchange.Server) Config {
	return Config{
		Server: at, Splits: numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)},
		Observation: []string{"prompt", "messages.-1.content"}, Episodes: 8,
	}
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

// begin opens and resets an episode of the first task, without closing it.
func begin(t *testing.T, f *Family) (envs.Episode, envs.Observation) {
	t.Helper()
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.Open(t.Context(), tasks[0])
	if err != nil {
		t.Fatal(err)
	}
	o, err := e.Reset(t.Context())
	if err != nil {
		_ = e.Close()
		t.Fatal(err)
	}
	return e, o
}
