package fakeserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// OpenAI is a fake OpenAI-compatible server with /v1/models and /v1/chat/completions. Its model is a scripted policy.
// Set the exported fields before the first request.
type OpenAI struct {
	*httptest.Server
	Policy  samplertest.Policy
	Model   string
	Answers string // the name of the model in answers
	Listed  string // the name of the model in /v1/models; empty: Model
	APIKey  string // empty: no key is required
	Context int    // context length in tokens, reported as max_model_len
	// NoModels says that the server has no /v1/models, like some proxies.
	NoModels bool
	// Completion says that the server accepts max_completion_tokens and refuses max_tokens.
	Completion bool
	// Unknown are parameters that the server refuses, as OpenAI's own server refuses top_k.
	Unknown []string
	// RetryAfter is the header Retry-After of a busy answer; 0: none.
	RetryAfter time.Duration
	// Fault returns the fault of the n-th completion (from 0), including that of a publication; nil: no faults.
	Fault func(n int) samplertest.Fault

	closing   chan struct{}
	closeOnce sync.Once

	mu       sync.Mutex
	requests []OpenAIRequest
}

// OpenAIRequest is the body of a request to /v1/chat/completions.
type OpenAIRequest struct {
	Model    string `json:"model"`
	Messages []struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"messages"`
	Temperature         *float64       `json:"temperature"`
	TopP                *float64       `json:"top_p"`
	MaxTokens           *int           `json:"max_tokens"`
	MaxCompletionTokens *int           `json:"max_completion_tokens"`
	Seed                *int64         `json:"seed"`
	Stream              bool           `json:"stream"`
	TopK                *int           `json:"top_k"`
	Stop                []string       `json:"stop"`
	TemplateArgs        map[string]any `json:"chat_template_kwargs"`
}

// NewOpenAI starts the server on a free port of the loopback. Close stops it.
func NewOpenAI(p samplertest.Policy) *OpenAI {
	s := &OpenAI{Policy: p, Model: "tiny", Answers: "tiny-2026-08", Context: 4096, closing: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", s.serveModels)
	mux.HandleFunc("POST /v1/chat/completions", s.serveChat)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.APIKey != "" && r.Header.Get("Authorization") != "Bearer "+s.APIKey {
			s.refuse(w, http.StatusUnauthorized, "invalid_api_key", "Incorrect API key provided")
			return
		}
		mux.ServeHTTP(w, r)
	}))
	return s
}

// Close ends hanging requests and stops the server.
func (s *OpenAI) Close() {
	s.closeOnce.Do(func() { close(s.closing) })
	s.Server.Close()
}

// Requests returns the completion requests so far.
func (s *OpenAI) Requests() []OpenAIRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// refuse sends an error in OpenAI's format.
func (s *OpenAI) refuse(w http.ResponseWriter, status int, code, format string, args ...any) {
	reply(w, status, map[string]any{"error": map[string]any{
		"message": fmt.Sprintf(format, args...), "type": "invalid_request_error", "code": code,
	}})
}

func (s *OpenAI) serveModels(w http.ResponseWriter, r *http.Request) {
	if s.NoModels {
		http.NotFound(w, r)
		return
	}
	listed := s.Model
	if s.Listed != "" {
		listed = s.Listed
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{
		map[string]any{"id": "another", "object": "model"},
		map[string]any{"id": listed, "object": "model", "max_model_len": s.Context},
	}})
}

func (s *OpenAI) serveChat(w http.ResponseWriter, r *http.Request) {
	var body OpenAIRequest
	if !decode(w, r, &body) {
		return
	}
	fault := s.next(body)
	if !replacesAnswer(w, r, fault, s.closing, func() { s.refuseBusy(w) }) {
		s.chat(w, body, fault)
	}
}

// refuseBusy answers that the rate limit is reached.
func (s *OpenAI) refuseBusy(w http.ResponseWriter) {
	if s.RetryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(s.RetryAfter.Seconds()))
	}
	s.refuse(w, http.StatusTooManyRequests, "rate_limit_exceeded", "Rate limit reached")
}

// next records a request and returns its fault.
func (s *OpenAI) next(body OpenAIRequest) samplertest.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.requests)
	s.requests = append(s.requests, body)
	if s.Fault == nil {
		return ""
	}
	return s.Fault(n)
}

// chat samples a completion and sends it.
func (s *OpenAI) chat(w http.ResponseWriter, body OpenAIRequest, fault samplertest.Fault) {
	if !s.accepts(w, body) {
		return
	}
	r := s.request(body)
	if len(r.Prompt) > s.Context {
		s.refuse(w, http.StatusBadRequest, "context_length_exceeded", "This model's maximum context length is %d tokens",
			s.Context)
		return
	}
	c := s.Policy.Sample(0, r)
	content, finish := any(c.Text), any(c.Finish)
	switch fault {
	case samplertest.FaultEmpty:
		content = nil
	case samplertest.FaultNoEnd:
		finish = nil
	}
	choices := []any{map[string]any{
		"index": 0, "finish_reason": finish, "message": map[string]any{"role": "assistant", "content": content},
	}}
	if fault == samplertest.FaultWrongIDs {
		choices = []any{}
	}
	answer := map[string]any{
		"object": "chat.completion", "model": s.Answers, "choices": choices,
		"usage": map[string]any{
			"prompt_tokens": len(r.Prompt), "completion_tokens": len(c.IDs), "total_tokens": len(r.Prompt) + len(c.IDs),
		},
	}
	if fault == samplertest.FaultCut {
		breakOff(w, answer)
	}
	reply(w, http.StatusOK, answer)
}

// accepts checks the model and the parameters. If the server refuses them, it sends an error and returns false.
func (s *OpenAI) accepts(w http.ResponseWriter, body OpenAIRequest) bool {
	for name, sent := range map[string]bool{
		"top_k": body.TopK != nil, "chat_template_kwargs": body.TemplateArgs != nil, "stop": body.Stop != nil,
	} {
		if sent && slices.Contains(s.Unknown, name) {
			s.refuse(w, http.StatusBadRequest, "unknown_parameter", "Unrecognized request argument supplied: %s", name)
			return false
		}
	}
	switch {
	case body.Model != s.Model:
		s.refuse(w, http.StatusNotFound, "model_not_found", "The model `%s` does not exist", body.Model)
		return false
	case s.Completion && body.MaxTokens != nil:
		s.refuse(w, http.StatusBadRequest, "unsupported_parameter",
			"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
		return false
	}
	return true
}

// request converts a body to a request to the script, with the server's defaults.
func (s *OpenAI) request(body OpenAIRequest) sampler.Request {
	var messages []samplertest.ChatMessage
	for _, m := range body.Messages {
		messages = append(messages, samplertest.ChatMessage{Role: m.Role, Text: m.Content})
	}
	r := sampler.Request{Prompt: s.Policy.Render(messages), MaxTokens: s.Context, Temperature: 1, Stop: body.Stop}
	limit := body.MaxTokens
	if s.Completion {
		limit = body.MaxCompletionTokens
	}
	if limit != nil {
		r.MaxTokens = *limit
	}
	if body.Temperature != nil {
		r.Temperature = *body.Temperature
	}
	if body.TopP != nil {
		r.TopP = *body.TopP
	}
	if body.TopK != nil {
		r.TopK = *body.TopK
	}
	if body.Seed != nil {
		r.Seed = uint64(*body.Seed)
	}
	return r
}
