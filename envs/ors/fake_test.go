package ors

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

// fakeServer speaks as the SDK's server.py does. It has one environment, house,
// with the splits train (6 tasks), hard (3) and test (2).
type fakeServer struct {
	remotetest.Script
	capacity int    // environments at the same time
	key      string // required in every request; empty: none
	mu       sync.Mutex
	sessions int                          // created so far
	worlds   map[string]*remotetest.World // by session
	results  map[string]string            // of calls, by their task_id
}

func newFake() *fakeServer {
	return &fakeServer{capacity: 8, worlds: map[string]*remotetest.World{}, results: map[string]string{}}
}

var sizes = map[string]uint64{"train": 6, "hard": 3, "test": 2}

// environments is the number of environments that were not deleted.
func (s *fakeServer) environments() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.worlds)
}

// tools is the answer to /house/tools.
var tools = m{"tools": []m{
	{"name": "act", "description": "Do\n  something.", "input_schema": m{
		"type": "object", "properties": m{"text": m{"type": "string"}}, "required": []string{"text"},
	}},
	{"name": "bell", "description": "Ring.", "input_schema": nil},
	{"name": "move", "description": "Go.", "input_schema": m{
		"properties": m{"to": m{"type": "string"}, "fast": m{"type": "boolean"}}, "required": []string{"to", "fast"},
	}},
}}

// splits is the answer to /house/splits.
var splits = []m{
	{"name": "train", "type": "train"}, {"name": "hard", "type": "validation"}, {"name": "test", "type": "test"},
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.key != "" && (r.Header.Get("X-API-Key") != s.key || r.Header.Get("Authorization") != "Bearer "+s.key) {
		refuse(w, http.StatusUnauthorized, "no key")
		return
	}
	if s.Answered(w, r) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/list_environments":
		remotetest.Answer(w, []string{"house"})
	case "/house/tools":
		remotetest.Answer(w, tools)
	case "/house/splits":
		remotetest.Answer(w, splits)
	case "/house/num_tasks":
		var q struct{ Split string }
		_ = json.NewDecoder(r.Body).Decode(&q)
		remotetest.Answer(w, m{"num_tasks": sizes[q.Split]})
	case "/create_session":
		s.sessions++
		stream(w, "task_id", fmt.Sprintf("session-%d", s.sessions))
		stream(w, "end", "")
	case "/delete_session":
		remotetest.Answer(w, m{"sid": r.Header.Get("X-Session-ID")})
	default:
		s.inSession(w, r, r.Header.Get("X-Session-ID"))
	}
}

// inSession answers the requests of one session.
func (s *fakeServer) inSession(w http.ResponseWriter, r *http.Request, sid string) {
	world := s.worlds[sid]
	switch {
	case sid == "":
		refuse(w, http.StatusBadRequest, "X-Session-ID header is required")
	case r.URL.Path == "/create":
		s.create(w, r, sid)
	case r.URL.Path == "/delete":
		delete(s.worlds, sid)
		remotetest.Answer(w, m{"sid": sid})
	case world == nil:
		refuse(w, http.StatusNotFound, "Active environment not found")
	case r.URL.Path == "/ping":
		remotetest.Answer(w, m{"status": "ok"})
	case r.URL.Path == "/house/prompt":
		remotetest.Answer(w, []m{
			{"type": "text", "text": world.Text(), "detail": nil},
			{"type": "image", "data": "aGk=", "mimeType": "image/png"},
		})
	case r.URL.Path == "/house/call":
		s.call(w, r, world)
	default:
		refuse(w, http.StatusNotFound, "Not Found")
	}
}

func (s *fakeServer) create(w http.ResponseWriter, r *http.Request, sid string) {
	var q struct {
		Env   string `json:"env_name"`
		Split string
		Index *uint64
	}
	bad := json.NewDecoder(r.Body).Decode(&q)
	switch {
	case bad != nil || q.Env != "house" || q.Index == nil || *q.Index >= sizes[q.Split]:
		refuse(w, http.StatusBadRequest, "Invalid index")
	case len(s.worlds) >= s.capacity:
		refuse(w, http.StatusServiceUnavailable, "no room")
	default:
		s.worlds[sid] = remotetest.NewWorld(uint64(len(q.Split))<<32 + *q.Index)
		remotetest.Answer(w, m{"sid": sid})
	}
}

func (s *fakeServer) call(w http.ResponseWriter, r *http.Request, world *remotetest.World) {
	var q struct {
		Name   *string
		Input  map[string]any
		TaskID string `json:"task_id"`
	}
	if json.NewDecoder(r.Body).Decode(&q) != nil || q.Name == nil || q.Input == nil {
		refuse(w, http.StatusUnprocessableEntity, "Input should be an object")
		return
	}
	if q.TaskID == "" {
		q.TaskID = fmt.Sprintf("call-%d", len(s.results))
		s.results[q.TaskID] = run(*q.Name, q.Input, world)
	}
	result, ok := s.results[q.TaskID]
	if !ok {
		stream(w, "error", "unknown task_id")
		return
	}
	stream(w, "task_id", q.TaskID)
	fmt.Fprint(w, ": ping - 2026-11-25\r\n\r\n")
	half := len(result) / 2
	stream(w, "chunk", result[:half])
	stream(w, "end", result[half:])
}

func run(tool string, input m, world *remotetest.World) string {
	text, ok := input["text"].(string)
	answer := m{"ok": false, "error": fmt.Sprintf("%q is not a valid tool", tool)}
	switch {
	case tool == "act" && !ok:
		answer = m{"ok": false, "error": "Tool input validation error: text"}
	case tool == "act":
		reward, done := world.Act(text)
		block := m{"type": "text", "text": world.Text()}
		output := m{"blocks": []m{block}, "reward": nil, "finished": done, "metadata": nil}
		if done {
			output["reward"] = reward
		}
		answer = m{"ok": true, "output": output}
	}
	raw, _ := json.Marshal(answer)
	return string(raw)
}

func refuse(w http.ResponseWriter, status int, detail string) {
	remotetest.Status(w, status, m{"detail": detail})
}

// stream sends an event as sse_starlette does.
func stream(w http.ResponseWriter, event, data string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	fmt.Fprintf(w, "event: %s\r\ndata: %s\r\n\r\n", event, data)
	w.(http.Flusher).Flush()
}

func config(s exchange.Server) Config {
	return Config{Server: s, Train: Set{Numbers: numbered.Range(0, 4)}, Test: Set{Split: "test"}, Tool: "act"}
}

// driver opens families with the configuration above.
var driver = remotetest.Driver[*Family]{Open: func(t *testing.T, s exchange.Server) *Family {
	t.Helper()
	return remotetest.Open(t, Open, config(s))
}}

// server is a fake server that answers the requests first to last (counted from
// 0) of the paths that end with path by do.
func server(path string, first, last int, do http.HandlerFunc) *fakeServer {
	s := newFake()
	s.Before = remotetest.On(path, first, last, do)
	return s
}
