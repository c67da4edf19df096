package openenv

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/numbered"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

type m = map[string]any

// fakeServer speaks as OpenEnv's http_server.py does.
type fakeServer struct {
	remotetest.Counter       // of messages by kind
	action             m     // the schema of an action
	capacity           int   // sessions at the same time
	before             reply // may be nil
	mu                 sync.Mutex
	sessions           int
}

// A reply may answer a message of the client: it returns true if it has done
// so. It gets the number of earlier messages of the same kind.
type reply func(c *websocket.Conn, kind string, n int) bool

func newFake() *fakeServer {
	action := m{
		"additionalProperties": false, "required": []string{"message"},
		"properties": m{"message": m{"type": "string"}, "metadata": m{"type": "object"}},
	}
	return &fakeServer{capacity: 8, action: action}
}

// enter opens a session if there is room.
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
		remotetest.Answer(w, m{"status": "healthy"})
	case "/schema":
		remotetest.Answer(w, m{"action": s.action, "observation": m{}, "state": m{}})
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
	var world *remotetest.World
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
		n := s.Add(q.Type)
		switch {
		case s.before != nil && s.before(conn, q.Type, n):
		case bad != nil || q.Type == "step" && q.Data.Message == nil:
			missing := m{"loc": []string{"message"}, "msg": "Field required"}
			send(conn, "error", m{"message": "Invalid message", "code": "VALIDATION_ERROR", "errors": []m{missing}})
		case q.Type == "close":
			return
		case q.Type == "reset":
			world = remotetest.NewWorld(q.Data.Seed)
			observe(conn, world, nil, false)
		case q.Type == "step":
			reward, done := world.Act(*q.Data.Message)
			observe(conn, world, reward, done)
		}
	}
}

func observe(conn *websocket.Conn, w *remotetest.World, reward any, done bool) {
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

func config(s exchange.Server) Config {
	return Config{
		Server: s, Splits: numbered.Splits{Train: numbered.Range(1, 6), Test: numbered.Range(7, 8)},
		Observation: []string{"prompt", "messages.-1.content"}, Concurrency: 8,
	}
}

// driver opens families with the configuration above.
var driver = remotetest.Driver[*Family]{Open: func(t *testing.T, s exchange.Server) *Family {
	t.Helper()
	return remotetest.Open(t, Open, config(s))
}}
