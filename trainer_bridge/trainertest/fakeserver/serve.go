package fakeserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"time"
)

// serve answers one request, or fails as Options.Fault decides.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	call := Call{Op: path.Base(r.URL.Path), Body: body}
	var head struct {
		Seq int64 `json:"seq_id"`
	}
	if !isFile(r) && len(body) > 0 && json.Unmarshal(body, &head) != nil {
		fail(w, http.StatusBadRequest, "the body is not JSON")
		return
	}
	call.Seq = head.Seq
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
	if s.opts.Token != "" && r.Header.Get("Authorization") != "Bearer "+s.opts.Token {
		fail(w, http.StatusUnauthorized, "wrong token")
		return
	}
	fault := s.fault(call)
	switch {
	case s.dead() || fault.Hang:
		s.hang(r)
		panic(http.ErrAbortHandler)
	case fault.Die:
		go s.die() // it closes this connection too, so this goroutine cannot wait for it
		<-s.stop
		panic(http.ErrAbortHandler)
	case fault.Status != 0:
		if fault.RetryAfter > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(fault.RetryAfter.Seconds()))
		}
		fail(w, fault.Status, fault.Message)
		return
	case fault.Delay > 0 && !s.pause(r, fault.Delay):
		return
	}
	if isFile(r) {
		s.files(w, r, body)
		return
	}
	status, answer := s.answer(r, call, fault)
	if fault.Lose {
		panic(http.ErrAbortHandler)
	}
	reply(w, status, answer)
}

func (s *Server) fault(c Call) Fault {
	if s.opts.Fault == nil {
		return Fault{}
	}
	return s.opts.Fault(c)
}

func (s *Server) dead() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

func (s *Server) hang(r *http.Request) {
	select {
	case <-s.stop:
	case <-r.Context().Done():
	}
}

// pause sleeps and reports whether the client still waits for the answer.
func (s *Server) pause(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stop:
	case <-r.Context().Done():
	}
	return false
}

// answer executes one operation of the protocol.
func (s *Server) answer(r *http.Request, c Call, fault Fault) (int, any) {
	if status, answer, ok := s.skyRL(c); ok {
		return status, answer
	}
	switch c.Op {
	case "/":
		if s.opts.SkyRL {
			return 200, map[string]string{"name": "Tinker API Mock", "version": "0.0.1"}
		}
	case "get_server_capabilities":
		can := map[string]any{"supported_models": []any{map[string]string{"model_name": "model"}}}
		if !s.opts.SkyRL {
			can["server"] = "empo2"
		}
		return 200, can
	case "import_adapter", "export_checkpoint":
		return s.companion(c)
	case "unload_model":
		return s.unload(c)
	case "healthz":
		return 200, map[string]string{"status": "ok"}
	case "create_session":
		return 200, map[string]string{"session_id": "session", "type": c.Op}
	case "session_heartbeat":
		return 200, map[string]string{"type": c.Op}
	case "create_model":
		return s.create(c)
	case "retrieve_future":
		return s.retrieve(r, c)
	case "forward", "forward_backward", "optim_step", "save_weights", "load_weights", "save_weights_for_sampler":
		return s.submit(c, fault)
	case "tokenize", "detokenize", "control_token", "render":
		return s.text(c)
	}
	return http.StatusNotFound, detail("no such path")
}

func (s *Server) modelID(n int) string { return fmt.Sprintf("session:train:%d", n-1) }

func (s *Server) create(c Call) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names++
	id := s.modelID(s.names)
	m := newModel(s.opts, id)
	s.models[id] = m
	created := m.settled(map[string]string{"model_id": id, "type": "create_model"})
	return 200, map[string]string{"request_id": created, "model_id": id}
}

// unload forgets a model. The results of its requests are lost with it.
func (s *Server) unload(c Call) (int, any) {
	var head struct {
		ModelID string `json:"model_id"`
	}
	json.Unmarshal(c.Body, &head)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.models[head.ModelID] == nil {
		return http.StatusNotFound, detail("no model " + head.ModelID)
	}
	delete(s.models, head.ModelID)
	return 200, map[string]string{"request_id": "unload", "type": c.Op}
}

// Models returns the number of models that were created and not unloaded.
func (s *Server) Models() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.models)
}

func (s *Server) submit(c Call, fault Fault) (int, any) {
	var head struct {
		ModelID string `json:"model_id"`
	}
	json.Unmarshal(c.Body, &head)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[head.ModelID]
	if m == nil {
		return http.StatusNotFound, detail("no model " + head.ModelID)
	}
	if c.Seq < 1 {
		return http.StatusUnprocessableEntity, detail("seq_id is missing")
	}
	return m.accept(c, fault)
}

func (s *Server) retrieve(r *http.Request, c Call) (int, any) {
	var ask struct {
		RequestID string `json:"request_id"`
	}
	json.Unmarshal(c.Body, &ask)
	if s.opts.SkyRL {
		return s.skyRLRetrieve(ask.RequestID)
	}
	s.mu.Lock()
	var found *job
	for _, m := range s.models {
		if j := m.byID[ask.RequestID]; j != nil {
			found = j
		}
	}
	s.mu.Unlock()
	if found == nil {
		return http.StatusNotFound, detail("no request " + ask.RequestID)
	}
	hold := time.NewTimer(s.opts.Hold)
	defer hold.Stop()
	select {
	case <-found.done:
		return 200, found.result
	case <-hold.C:
	case <-s.stop:
	case <-r.Context().Done():
	}
	return 200, map[string]string{"type": "try_again", "request_id": ask.RequestID, "queue_state": "active"}
}

func detail(text string) any { return map[string]string{"detail": text} }

func fail(w http.ResponseWriter, status int, text string) { reply(w, status, detail(text)) }

func reply(w http.ResponseWriter, status int, answer any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(answer)
}
