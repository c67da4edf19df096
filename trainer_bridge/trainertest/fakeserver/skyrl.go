package fakeserver

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// skyRL answers like SkyRL's Tinker server 0.3.0 with its JAX backend, as recorded; ok is false for what it answers
// like the others. The server's mutex must not be held.
func (s *Server) skyRL(c Call) (status int, answer any, ok bool) {
	if !s.opts.SkyRL {
		return 0, nil, false
	}
	switch c.Op {
	case "forward_backward", "forward", "optim_step", "save_weights", "save_weights_for_sampler", "load_weights":
		status, answer = s.skyRLSubmit(c)
		return status, answer, true
	case "create_model":
		var ask struct {
			Lora map[string]any `json:"lora_config"`
		}
		json.Unmarshal(c.Body, &ask)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names++
		id := s.modelID(s.names)
		s.models[id] = newModel(s.opts, id)
		lora := map[string]any{"rank": ask.Lora["rank"], "alpha": 32.0, "seed": ask.Lora["seed"]}
		result := map[string]any{"model_id": id, "lora_config": lora}
		return 200, map[string]string{"model_id": id, "request_id": s.future(result)}, true
	}
	return 0, nil, false
}

// future stores a result and returns its number. SkyRL numbers requests of all models together.
func (s *Server) future(result any) string {
	s.futures = append(s.futures, result)
	return strconv.Itoa(len(s.futures))
}

// A failure is the result of a request that failed.
type failure string

// skyRLSubmit executes a request at once, and again if it comes again. It ignores the sequence number.
func (s *Server) skyRLSubmit(c Call) (int, any) {
	var ask struct {
		ModelID string `json:"model_id"`
		Path    string `json:"path"`
	}
	json.Unmarshal(c.Body, &ask)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[ask.ModelID]
	if m == nil {
		return http.StatusNotFound, detail("Model not found")
	}
	m.requests++
	switch {
	case c.Op == "load_weights" && m.requests > 1:
		return http.StatusBadRequest, detail(fmt.Sprintf("LoadWeights is not permitted with seq_id %d", m.requests))
	case strings.HasPrefix(c.Op, "save_") && strings.Contains(ask.Path, "."):
		return http.StatusUnprocessableEntity, detail("String should match pattern '^[a-zA-Z0-9_-]+$'")
	}
	result, err := m.skyRL(c)
	if err != nil {
		if c.Op == "load_weights" {
			return http.StatusNotFound, detail("Checkpoint not found: " + ask.Path)
		}
		return 200, map[string]string{"request_id": s.future(failure(err.Error()))}
	}
	return 200, map[string]string{"request_id": s.future(result)}
}

// skyRL executes a request and changes the result to what SkyRL answers.
func (m *model) skyRL(c Call) (any, error) {
	m.done++
	var in struct {
		Forward         lossInput          `json:"forward_input"`
		ForwardBackward lossInput          `json:"forward_backward_input"`
		Adam            map[string]float64 `json:"adam_params"`
	}
	json.Unmarshal(c.Body, &in)
	for _, name := range []string{in.Forward.Name, in.ForwardBackward.Name} {
		if name != "" && name != "cross_entropy" && name != "importance_sampling" && name != "ppo" {
			return nil, fmt.Errorf("Loss functions ['%s'] are not supported by the JAX backend", name)
		}
	}
	result, err := m.execute(c)
	if err != nil {
		return nil, err
	}
	switch c.Op {
	case "forward", "forward_backward":
		out := result.(map[string]any)
		out["metrics"] = map[string]float64{}
		if c.Op == "forward_backward" {
			m.gradients = append(m.gradients, m.rowGradients(in.ForwardBackward)...)
		}
		return out, nil
	case "optim_step":
		norm := 0.0
		for _, g := range m.gradients {
			norm += g
		}
		if m.opts.Scale != Sums {
			norm /= float64(max(1, len(m.gradients)))
		}
		m.gradients = nil
		return map[string]any{"metrics": map[string]float64{"skyrl.ai/grad_norm": math.Abs(norm),
			"skyrl.ai/learning_rate": in.Adam["learning_rate"]}}, nil
	case "save_weights_for_sampler":
		out := result.(map[string]string)
		return map[string]any{"path": strings.Replace(out["path"], "/sampler_weights/", "/", 1),
			"type": c.Op, "sampling_session_id": nil}, nil
	case "save_weights":
		return map[string]any{"path": result.(map[string]string)["path"], "type": c.Op}, nil
	}
	return map[string]any{"type": c.Op}, nil
}

// rowGradients are a stand-in of the rows' gradients: the mean or the sum of −A over a row's positions, at ratio 1.
func (m *model) rowGradients(in lossInput) []float64 {
	out := make([]float64, len(in.Data))
	for i, d := range in.Data {
		all := d.Inputs["advantages"].Data
		for _, a := range all {
			out[i] -= a
		}
		if m.opts.Scale == Means {
			out[i] /= float64(len(all))
		}
	}
	return out
}

// skyRLRetrieve answers with a stored result. A failure has the status 400.
func (s *Server) skyRLRetrieve(id string) (int, any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := strconv.Atoi(id)
	switch {
	case err != nil:
		return http.StatusInternalServerError, "Internal Server Error"
	case n < 1 || n > len(s.futures):
		return http.StatusNotFound, detail("Future not found")
	}
	if text, failed := s.futures[n-1].(failure); failed {
		return http.StatusBadRequest, detail(string(text))
	}
	return 200, s.futures[n-1]
}
