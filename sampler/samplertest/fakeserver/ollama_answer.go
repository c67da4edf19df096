package fakeserver

import (
	"fmt"
	"net/http"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// ollamaAnswer is the body of an answer of /api/generate or /api/chat.
type ollamaAnswer struct {
	Model      string           `json:"model"`
	Response   string           `json:"response"`
	Message    map[string]any   `json:"message,omitempty"`
	Done       bool             `json:"done"`
	DoneReason string           `json:"done_reason,omitempty"`
	Prompt     int              `json:"prompt_eval_count,omitempty"`
	Sampled    int              `json:"eval_count,omitempty"`
	Logprobs   []map[string]any `json:"logprobs,omitempty"`
}

// serveGenerate answers /api/generate and /api/chat.
func (s *Ollama) serveGenerate(w http.ResponseWriter, r *http.Request) {
	var body OllamaRequest
	if !decode(w, r, &body) {
		return
	}
	digests, ok := s.adapters(body.Model)
	if !ok {
		refuse(w, http.StatusNotFound, "model '%s' not found", body.Model)
		return
	}
	if body.Prompt == "" && body.Messages == nil && body.KeepAlive != nil && body.KeepAlive.Duration == 0 {
		s.unload(body.Model)
		reply(w, http.StatusOK, ollamaAnswer{Model: body.Model, Done: true, DoneReason: "unload"})
		return
	}
	fault := s.begin(body)
	defer s.end()
	busy := func() {
		refuse(w, http.StatusServiceUnavailable, "server busy, please try again.  maximum pending requests exceeded")
	}
	if !replacesAnswer(w, r, fault, s.closing, busy) {
		s.complete(w, body, digests, fault)
	}
}

// begin records a request, loads its model and returns its fault.
func (s *Ollama) begin(body OllamaRequest) samplertest.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.requests)
	s.requests = append(s.requests, body)
	if s.loaded != body.Model {
		if s.loaded != "" {
			s.swaps++
		}
		if s.inFlight > 0 {
			s.overlaps++
		}
		s.loaded = body.Model
	}
	s.inFlight++
	if s.Fault == nil {
		return ""
	}
	return s.Fault(n)
}

func (s *Ollama) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}

func (s *Ollama) unload(model string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded == model {
		s.loaded = ""
	}
}

// complete samples a completion and sends it.
func (s *Ollama) complete(w http.ResponseWriter, body OllamaRequest, digests []string, fault samplertest.Fault) {
	r := s.request(body)
	if len(r.Prompt) > int(body.option("num_ctx", 4096)) {
		refuse(w, http.StatusBadRequest, "the input length exceeds the context length")
		return
	}
	c := s.Policy.Sample(s.version(digests), r)
	a := ollamaAnswer{Model: body.Model, Done: true, DoneReason: string(c.Finish), Prompt: len(r.Prompt) + s.Extra,
		Sampled: len(c.IDs)}
	if body.Logprobs {
		a.Logprobs = s.logprobs(c)
	}
	switch fault {
	case samplertest.FaultWrongModel:
		a.Model = "another:latest"
	case samplertest.FaultEmpty:
		c.Text = ""
	case samplertest.FaultNoEnd:
		a = ollamaAnswer{Model: body.Model}
	case samplertest.FaultGap:
		a.Logprobs = a.Logprobs[1:]
	}
	if body.Messages != nil {
		a.Message = map[string]any{"role": "assistant", "content": c.Text}
	} else {
		a.Response = c.Text
	}
	if fault == samplertest.FaultCut {
		breakOff(w, a)
	}
	reply(w, http.StatusOK, a)
}

// request converts a body to a request to the script, with Ollama's defaults.
func (s *Ollama) request(body OllamaRequest) sampler.Request {
	prompt := s.Policy.Tokenizer.EncodeSpecial(body.Prompt)
	if body.Messages != nil {
		var messages []samplertest.ChatMessage
		for _, m := range body.Messages {
			messages = append(messages, samplertest.ChatMessage{Role: m.Role, Text: m.Content})
		}
		prompt = s.Policy.Render(messages)
	}
	var stop []string
	if texts, ok := body.Options["stop"].([]any); ok {
		for _, text := range texts {
			stop = append(stop, fmt.Sprint(text))
		}
	}
	return sampler.Request{
		Prompt: prompt, MaxTokens: int(body.option("num_predict", 128)),
		Temperature: body.option("temperature", 0.8), Seed: uint64(body.option("seed", 0)),
		TopK: int(body.option("top_k", 40)), TopP: body.option("top_p", 0.9), Stop: stop,
	}
}

// option returns a numeric option of a request, or its default.
func (body OllamaRequest) option(key string, otherwise float64) float64 {
	if v, ok := body.Options[key].(float64); ok {
		return v
	}
	return otherwise
}

// version returns the version of the last adapter, and 0 for the base model.
func (s *Ollama) version(digests []string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	version := 0
	for _, d := range digests {
		version = s.blobs[d]
	}
	return version
}

// logprobs returns the log-probs of a completion. Like the real server, it has no entry for the end token.
func (s *Ollama) logprobs(c sampler.Completion) []map[string]any {
	var out []map[string]any
	for i, id := range c.IDs {
		if id != samplertest.End {
			out = append(out, map[string]any{"token": s.Policy.Tokenizer.Piece(id), "logprob": c.Logprobs[i]})
		}
	}
	return out
}
