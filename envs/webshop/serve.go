package webshop

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// NewHandler serves sessions in the shop of f. The protocol is that of AgentGym's
// WebShop server: /create, /reset, /step, /close, /available_actions,
// /instruction_text, /observation, /state and /list_envs. As in AgentGym, rewards are
// raw and steps are not limited. The handler is safe for concurrent use. The caller
// closes f after the last request.
func NewHandler(f *Family) http.Handler {
	s := &server{family: f, random: newPyRandom(f.config.Seed), shoppers: make(map[int]*shopper)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { answer(w, "ok") })
	mux.HandleFunc("GET /list_envs", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.list()) })
	mux.HandleFunc("POST /create", s.create)
	mux.HandleFunc("POST /reset", s.reset)
	mux.HandleFunc("POST /step", s.step)
	mux.HandleFunc("POST /close", s.close)
	mux.HandleFunc("GET /available_actions", s.get(func(b *shopper) any {
		return map[string]any{"has_search_bar": b.session.page.searchBar, "clickables": b.session.page.names()}
	}))
	mux.HandleFunc("GET /instruction_text", s.get(func(b *shopper) any {
		return b.session.page.instruction(b.session.goal)
	}))
	mux.HandleFunc("GET /observation", s.get(func(b *shopper) any { return b.session.observe() }))
	mux.HandleFunc("GET /state", s.get(func(b *shopper) any {
		return map[string]any{"url": b.session.url, "html": b.session.page.html(),
			"instruction_text": "Instruction: " + b.session.goal.instruction}
	}))
	return mux
}

// maxBody is the largest size of a request body in bytes.
const maxBody = 1 << 20

var errNoEnv = errors.New("there is no such env_idx: POST /create returns one")

func (s *server) create(w http.ResponseWriter, _ *http.Request) {
	id, err := s.add()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, id)
}

func (s *server) reset(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Env     *int `json:"env_idx"`
		Session *int `json:"session_id"`
	}
	b := s.decode(w, r, &q, &q.Env)
	if b == nil {
		return
	}
	defer b.mu.Unlock()
	session, err := s.session(q.Session)
	if err != nil {
		refuse(w, http.StatusUnprocessableEntity, err)
		return
	}
	b.session = session
	answer(w, []any{session.observe(), nil})
}

func (s *server) step(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Env    *int    `json:"env_idx"`
		Action *string `json:"action"`
	}
	b := s.decode(w, r, &q, &q.Env)
	if b == nil {
		return
	}
	defer b.mu.Unlock()
	if q.Action == nil {
		refuse(w, http.StatusUnprocessableEntity, errors.New("the body lacks action, a string"))
		return
	}
	reward, done, err := b.session.act(*q.Action)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, map[string]any{"state": b.session.observe(), "reward": reward, "done": done, "info": nil})
}

func (s *server) close(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Env *int `json:"env_idx"`
	}
	if !readBody(w, r, &q) {
		return
	}
	answer(w, map[string]bool{"closed": q.Env != nil && s.remove(*q.Env)})
}

// get is the handler of a request that reads a session.
func (s *server) get(show func(*shopper) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.Atoi(r.URL.Query().Get("env_idx"))
		if err != nil {
			refuse(w, http.StatusUnprocessableEntity, errors.New("the query lacks env_idx, a whole number"))
			return
		}
		b := s.lock(id)
		if b == nil {
			refuse(w, http.StatusNotFound, errNoEnv)
			return
		}
		defer b.mu.Unlock()
		answer(w, show(b))
	}
}

// decode reads a body and locks its shopper. After an error it answers the request and
// returns nil.
func (s *server) decode(w http.ResponseWriter, r *http.Request, q any, env **int) *shopper {
	if !readBody(w, r, q) {
		return nil
	}
	if *env == nil {
		refuse(w, http.StatusUnprocessableEntity, errors.New("the body lacks env_idx, a whole number"))
		return nil
	}
	b := s.lock(**env)
	if b == nil {
		refuse(w, http.StatusNotFound, errNoEnv)
	}
	return b
}

func readBody(w http.ResponseWriter, r *http.Request, q any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(q); err != nil {
		refuse(w, http.StatusUnprocessableEntity,
			fmt.Errorf("the body is not a JSON object of this request: %w", safetext.JSONError(err)))
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // an error means that the client has disconnected
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"detail": err.Error()})
}
