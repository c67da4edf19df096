package ors

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/envs/remote/numbered"
)

type m = map[string]any

// fakeServer speaks as the SDK's server.py does: one environment "house" with
// the splits train (6 tasks), hard (3) and test (2). What a test puts into
// before comes first; true from it is all of the answer to a request.
type fakeServer struct {
	capacity int
	before   func(w http.ResponseWriter, r *http.Request, n int) bool // n counts the path's requests from 0
	key      string                                                   // that every request needs; empty: none
	mu       sync.Mutex
	calls    map[string]int
	worlds   map[string]*exchangetest.World
	results  map[string]string // of calls, by their task_id
}

func newFake() *fakeServer {
	return &fakeServer{capacity: 8, calls: map[string]int{}, worlds: map[string]*exchangetest.World{}, results: map[string]string{}}
}

var sizes = map[string]uint64{"train": 6, "hard": 3, "test": 2}

func (s *fakeServer) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[path]++
	return s.calls[path] - 1
}

// seen is the number of requests to a path, left that of environments.
func (s *fakeServer) seen(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[path]
}

func (s *fakeServer) left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.worlds)
}

func (s *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.count(r.URL.Path)
	if s.key != "" && (r.Header.Get("X-API-Key") != s.key || r.Header.Get("Authorization") != "Bearer "+s.key) {
		refuse(w, http.StatusUnauthorized, "no key")
		return
	}
	if s.before != nil && s.before(w, r, n) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/list_environments":
		reply(w, []string{"house"})
	case "/house/tools":
		reply(w, m{"tools": []m{
			{"name": "act", "description": "Do\n  something.", "input_schema": m{"type": "object", "properties": m{"text": m{"type": "string"}}, "required": []string{"text"}}},
			{"name": "bell", "description": "Ring.", "input_schema": nil},
			{"name": "move", "description": "Go.", "input_schema": m{"properties": m{"to": m{"type": "string"}, "fast": m{"type": "boolean"}}, "required": []string{"to", "fast"}}},
		}})
	case "/house/splits":
		reply(w, []m{{"name": "train", "type": "train"}, {"name": "hard", "type": "validation"}, {"name": "test", "type": "test"}})
	case "/house/num_tasks":
		var q struct{ Split string }
		_ = json.NewDecoder(r.Body).Decode(&q)
		reply(w, m{"num_tasks": sizes[q.Split]})
	case "/create_session":
		stream(w, "task_id", fmt.Sprintf("session-%d", n))
		stream(w, "end", "")
	case "/delete_session":
		reply(w, m{"sid": r.Header.Get("X-Session-ID")})
	default:
		s.inSession(w, r, r.Header.Get("X-Session-ID"))
	}
}

// inSession answers what concerns one environment.
func (s *fakeServer) inSession(w http.ResponseWriter, r *http.Request, sid string) {
	world := s.worlds[sid]
	switch {
	case sid == "":
		refuse(w, http.StatusBadRequest, "X-Session-ID header is required")
	case r.URL.Path == "/create":
		s.create(w, r, sid)
	case r.URL.Path == "/delete":
		delete(s.worlds, sid)
		reply(w, m{"sid": sid})
	case world == nil:
		refuse(w, http.StatusNotFound, "Active environment not found")
	case r.URL.Path == "/ping":
		reply(w, m{"status": "ok"})
	case r.URL.Path == "/house/prompt":
		reply(w, []m{{"type": "text", "text": world.Text(), "detail": nil}, {"type": "image", "data": "aGk=", "mimeType": "image/png"}})
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
		s.worlds[sid] = exchangetest.NewWorld(uint64(len(q.Split))<<32 + *q.Index)
		reply(w, m{"sid": sid})
	}
}

func (s *fakeServer) call(w http.ResponseWriter, r *http.Request, world *exchangetest.World) {
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

func run(tool string, input m, world *exchangetest.World) string {
	text, ok := input["text"].(string)
	answer := m{"ok": false, "error": fmt.Sprintf("%q is not a valid tool", tool)}
	switch {
	case tool == "act" && !ok:
		answer = m{"ok": false, "error": "Tool input validation error: text"}
	case tool == "act":
		reward, done := world.Act(text)
		output := m{"blocks": []m{{"type": "text", "text": world.Text()}}, "reward": nil, "finished": done, "metadata": nil}
		if done {
			output["reward"] = reward
		}
		answer = m{"ok": true, "output": output}
	}
	raw, _ := json.Marshal(answer)
	return string(raw)
}

func reply(w http.ResponseWriter, body any) { _ = json.NewEncoder(w).Encode(body) }

func refuse(w http.ResponseWriter, status int, detail string) {
	w.WriteHeader(status)
	reply(w, m{"detail": detail})
}

// stream sends an event as sse_starlette does.
func stream(w http.ResponseWriter, event, data string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	fmt.Fprintf(w, "event: %s\r\ndata: %s\r\n\r\n", event, data)
	w.(http.Flusher).Flush()
}

func config(at exchange.Server) Config {
	return Config{Server: at, Train: Set{Numbers: numbered.Range(0, 4)}, Test: Set{Split: "test"}, Tool: "act"}
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

// on limits what before does to a path and to some of its requests.
func on(path string, from, to int, do http.HandlerFunc) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.HasSuffix(r.URL.Path, path) || n < from || n > to {
			return false
		}
		do(w, r)
		return true
	}
}
