package fakeserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// Llama is a fake llama-server process that serves one version of a scripted policy. It has /health, /props,
// /v1/models, /tokenize, /detokenize, /lora-adapters and /completion, with the fields and errors of the real server.
// Set the exported fields before the first request.
type Llama struct {
	*httptest.Server
	Policy  samplertest.Policy
	Version int
	Model   string // the model's name in every answer, as --alias
	Context int    // context length of a slot in tokens
	Slots   int
	APIKey  string // empty: no key is required
	// Fault returns the fault of the n-th /completion (from 0); nil: no faults.
	Fault func(n int) samplertest.Fault
	// Loading is the number of requests to /health that are first answered with status 503.
	Loading int

	closing   chan struct{}
	closeOnce sync.Once

	mu       sync.Mutex
	requests []LlamaRequest
	health   int
}

// LlamaRequest is the body of a request to /completion.
type LlamaRequest struct {
	Prompt       json.RawMessage `json:"prompt"`
	NPredict     *int            `json:"n_predict"`
	Temperature  *float64        `json:"temperature"`
	TopK         *int            `json:"top_k"`
	TopP         *float64        `json:"top_p"`
	MinP         *float64        `json:"min_p"`
	Seed         *uint32         `json:"seed"`
	NProbs       int             `json:"n_probs"`
	ReturnTokens bool            `json:"return_tokens"`
	CachePrompt  *bool           `json:"cache_prompt"`
	Stream       bool            `json:"stream"`
	IDSlot       *int            `json:"id_slot"`
	PostSampling bool            `json:"post_sampling_probs"`
	IgnoreEOS    bool            `json:"ignore_eos"`
	Samplers     []string        `json:"samplers"`
	Stop         []string        `json:"stop"`
	Model        string          `json:"model"`
}

// NewLlama starts the server on a free port of the loopback. Close stops it.
func NewLlama(p samplertest.Policy, version int) *Llama {
	s := &Llama{Policy: p, Version: version, Model: samplertest.Name(version), Context: 4096, Slots: 4,
		closing: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", s.serveHealth)
	mux.HandleFunc("GET /props", s.serveProps)
	mux.HandleFunc("GET /v1/models", s.serveModels)
	mux.HandleFunc("GET /lora-adapters", s.serveAdapters)
	mux.HandleFunc("POST /tokenize", s.serveTokenize)
	mux.HandleFunc("POST /detokenize", s.serveDetokenize)
	mux.HandleFunc("POST /completion", s.serveCompletion)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusNotFound, "not_found_error", "File Not Found", nil)
	})
	s.Server = httptest.NewServer(s.authorized(mux))
	return s
}

// Close ends hanging requests and stops the server.
func (s *Llama) Close() {
	s.closeOnce.Do(func() { close(s.closing) })
	s.Server.Close()
}

// Requests returns the requests to /completion so far.
func (s *Llama) Requests() []LlamaRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// authorized checks the key.
func (s *Llama) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.APIKey != "" && r.URL.Path != "/health" && r.Header.Get("Authorization") != "Bearer "+s.APIKey {
			fail(w, http.StatusUnauthorized, "authentication_error", "Invalid API Key", nil)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reply sends a JSON body.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error means that the client disconnected
}

// fail sends an error in llama-server's format.
func fail(w http.ResponseWriter, status int, kind, message string, extra map[string]any) {
	e := map[string]any{"code": status, "type": kind, "message": message}
	for k, v := range extra {
		e[k] = v
	}
	reply(w, status, map[string]any{"error": e})
}

func (s *Llama) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	s.health++
	loading := s.health <= s.Loading
	s.mu.Unlock()
	if loading {
		fail(w, http.StatusServiceUnavailable, "unavailable_error", "Loading model", nil)
		return
	}
	reply(w, http.StatusOK, map[string]any{"status": "ok"})
}

func (s *Llama) serveProps(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{
		"default_generation_settings": map[string]any{"n_ctx": s.Context},
		"total_slots":                 s.Slots,
		"model_alias":                 s.Model,
		"model_path":                  "/models/scripted.gguf",
		"bos_token":                   "", "eos_token": s.Policy.Tokenizer.Piece(s.Policy.Tokenizer.EndOfTurn()),
		"build_info":  "b0-unknown",
		"is_sleeping": false,
	})
}

func (s *Llama) serveModels(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{
		"id": s.Model, "object": "model", "owned_by": "llamacpp",
		"meta": map[string]any{"n_vocab": s.Policy.Tokenizer.VocabSize(), "n_ctx_train": s.Context},
	}}})
}

func (s *Llama) serveAdapters(w http.ResponseWriter, _ *http.Request) {
	adapters := []any{}
	if s.Version > 0 {
		adapters = append(adapters, map[string]any{"id": 0, "path": "/adapters/" + s.Model + ".gguf", "scale": 1.0,
			"task_name": "", "prompt_prefix": ""})
	}
	reply(w, http.StatusOK, adapters)
}

func (s *Llama) serveTokenize(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Content      string `json:"content"`
		ParseSpecial *bool  `json:"parse_special"`
		WithPieces   bool   `json:"with_pieces"`
	}{}
	if !decode(w, r, &body) {
		return
	}
	ids := s.tokenize(body.Content, body.ParseSpecial == nil || *body.ParseSpecial)
	if !body.WithPieces {
		reply(w, http.StatusOK, map[string]any{"tokens": ids})
		return
	}
	pieces := []any{}
	for _, id := range ids {
		pieces = append(pieces, map[string]any{"id": id, "piece": s.Policy.Tokenizer.Piece(id)})
	}
	reply(w, http.StatusOK, map[string]any{"tokens": pieces})
}

// tokenize tokenizes text. If special is true, it parses control tokens.
func (s *Llama) tokenize(text string, special bool) []int32 {
	if special {
		return append([]int32{}, s.Policy.Tokenizer.EncodeSpecial(text)...)
	}
	return append([]int32{}, s.Policy.Tokenizer.Encode(text)...)
}

func (s *Llama) serveDetokenize(w http.ResponseWriter, r *http.Request) {
	body := struct {
		Tokens []int32 `json:"tokens"`
	}{}
	if decode(w, r, &body) {
		reply(w, http.StatusOK, map[string]any{"content": s.Policy.Tokenizer.Decode(body.Tokens)})
	}
}

// decode decodes a request's body. If that fails, it sends an error and returns false.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", fmt.Sprintf("parse error: %v", err), nil)
		return false
	}
	return true
}

// request converts a body to a request to the script, with llama-server's defaults such as temperature 0.8. If the body
// is invalid, it sends an error and returns false.
func (s *Llama) request(w http.ResponseWriter, body LlamaRequest) (sampler.Request, bool) {
	var prompt []int32
	var text string
	if json.Unmarshal(body.Prompt, &text) == nil {
		prompt = s.tokenize(text, true)
	} else if err := json.Unmarshal(body.Prompt, &prompt); err != nil || len(prompt) == 0 {
		fail(w, http.StatusBadRequest, "invalid_request_error", `"prompt" must be a string or an array of token ids`, nil)
		return sampler.Request{}, false
	}
	outside := func(id int32) bool { return id < 0 || int(id) >= s.Policy.Tokenizer.VocabSize() }
	if slices.ContainsFunc(prompt, outside) {
		fail(w, http.StatusBadRequest, "invalid_request_error", "Prompt contains invalid tokens", nil)
		return sampler.Request{}, false
	}
	if len(prompt) >= s.Context {
		fail(w, http.StatusBadRequest, "exceed_context_size_error",
			fmt.Sprintf("request (%d tokens) exceeds the available context size (%d tokens), try increasing it", len(prompt),
				s.Context),
			map[string]any{"n_prompt_tokens": len(prompt), "n_ctx": s.Context})
		return sampler.Request{}, false
	}
	r := sampler.Request{Prompt: prompt, MaxTokens: s.Context - len(prompt), Temperature: 0.8}
	if body.NPredict != nil && *body.NPredict >= 0 {
		r.MaxTokens = min(r.MaxTokens, *body.NPredict)
	}
	if body.Temperature != nil {
		r.Temperature = *body.Temperature
	}
	if body.Seed != nil {
		r.Seed = uint64(*body.Seed)
	}
	r.Stop = body.Stop
	if body.TopK != nil && slices.Contains(body.Samplers, "top_k") {
		r.TopK = *body.TopK
	}
	if body.TopP != nil && slices.Contains(body.Samplers, "top_p") {
		r.TopP = *body.TopP
	}
	return r, true
}
