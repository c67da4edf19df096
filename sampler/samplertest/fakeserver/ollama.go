package fakeserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ollama/ollama/api"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// Ollama is a fake Ollama server. It has one base model, which is a scripted policy, and models made from it with
// adapters. Like the real server in its default configuration, it keeps one model loaded. Set the exported fields
// before the first request.
type Ollama struct {
	*httptest.Server
	Policy  samplertest.Policy
	Base    string // name of the base model
	Version string
	Context int // context length of the base model in tokens
	// Fault returns the fault of the n-th completion (from 0), including the first token of a publication; nil: no
	// faults.
	Fault func(n int) samplertest.Fault
	// Extra is the number of tokens that the server adds before a raw prompt.
	Extra int
	// Keep is the digest of an adapter that every new model has too, as a model made from a model with an adapter.
	Keep string

	closing   chan struct{}
	closeOnce sync.Once

	mu       sync.Mutex
	blobs    map[string]int      // versions of the adapters, by digest
	models   map[string][]string // digests of the adapters, by the model's name
	loaded   string
	inFlight int
	swaps    int
	overlaps int
	requests []OllamaRequest
}

// OllamaRequest is the body of a request to /api/generate or /api/chat.
type OllamaRequest struct {
	Model     string         `json:"model"`
	Prompt    string         `json:"prompt"`
	Messages  []api.Message  `json:"messages"`
	Raw       bool           `json:"raw"`
	Stream    *bool          `json:"stream"`
	Truncate  *bool          `json:"truncate"`
	Shift     *bool          `json:"shift"`
	KeepAlive *api.Duration  `json:"keep_alive"`
	Logprobs  bool           `json:"logprobs"`
	Options   map[string]any `json:"options"`
	Think     any            `json:"think"`
}

// NewOllama starts the server on a free port of the loopback. Close stops it.
func NewOllama(p samplertest.Policy) *Ollama {
	s := &Ollama{
		Policy: p, Base: "tiny:latest", Version: "0.17.4", Context: 4096, closing: make(chan struct{}),
		blobs: map[string]int{}, models: map[string][]string{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"version": s.Version})
	})
	mux.HandleFunc("GET /api/tags", s.serveTags)
	mux.HandleFunc("POST /api/show", s.serveShow)
	mux.HandleFunc("HEAD /api/blobs/{digest}", s.serveHasBlob)
	mux.HandleFunc("POST /api/blobs/{digest}", s.serveBlob)
	mux.HandleFunc("POST /api/create", s.serveCreate)
	mux.HandleFunc("DELETE /api/delete", s.serveDelete)
	mux.HandleFunc("POST /api/generate", s.serveGenerate)
	mux.HandleFunc("POST /api/chat", s.serveGenerate)
	s.Server = httptest.NewServer(mux)
	return s
}

// Close ends hanging requests and stops the server.
func (s *Ollama) Close() {
	s.closeOnce.Do(func() { close(s.closing) })
	s.Server.Close()
}

// Adapter writes the adapter of a version as a trainer exports it for this server.
func (s *Ollama) Adapter(t testing.TB, version int) sampler.Adapter {
	t.Helper()
	file := filepath.Join(t.TempDir(), "adapter.gguf")
	if err := os.WriteFile(file, fmt.Appendf(nil, "GGUF adapter of version %d", version), 0o644); err != nil {
		t.Fatal(err)
	}
	return sampler.Adapter{Version: version, GGUF: file}
}

// Requests returns the completion requests so far.
func (s *Ollama) Requests() []OllamaRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]OllamaRequest(nil), s.requests...)
}

// Models returns the names of the models that were created and not deleted.
func (s *Ollama) Models() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.models {
		names = append(names, name)
	}
	return names
}

// Uploads returns the number of uploaded adapters.
func (s *Ollama) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.blobs)
}

// Swaps returns how many times another model was loaded, and how many times requests of the model before were still in
// flight.
func (s *Ollama) Swaps() (swaps, overlaps int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.swaps, s.overlaps
}

// Loaded returns the name of the model in memory; empty: none.
func (s *Ollama) Loaded() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded
}

// refuse sends an error in Ollama's format.
func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	reply(w, status, map[string]string{"error": fmt.Sprintf(format, args...)})
}

func (s *Ollama) serveTags(w http.ResponseWriter, _ *http.Request) {
	list := []any{map[string]any{"name": s.Base, "model": s.Base}}
	for _, name := range s.Models() {
		list = append(list, map[string]any{"name": name, "model": name})
	}
	reply(w, http.StatusOK, map[string]any{"models": list})
}

// adapters returns the digests of a model's adapters. The base model has none.
func (s *Ollama) adapters(name string) (digests []string, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	digests, known = s.models[name]
	return digests, known || name == s.Base || name+":latest" == s.Base
}

func (s *Ollama) serveShow(w http.ResponseWriter, r *http.Request) {
	var body api.ShowRequest
	if !decode(w, r, &body) {
		return
	}
	digests, ok := s.adapters(body.Model)
	if !ok {
		refuse(w, http.StatusNotFound, "model '%s' not found", body.Model)
		return
	}
	modelfile := "# Modelfile generated by \"ollama show\"\n\nFROM /models/blobs/sha256-base\nTEMPLATE {{ .Prompt }}\n"
	for _, d := range digests {
		modelfile += "ADAPTER /models/blobs/" + strings.Replace(d, ":", "-", 1) + "\n"
	}
	reply(w, http.StatusOK, map[string]any{
		"modelfile":  modelfile,
		"details":    map[string]any{"family": "scripted", "format": "gguf"},
		"model_info": map[string]any{"general.architecture": "scripted", "scripted.context_length": s.Context},
	})
}

func (s *Ollama) serveHasBlob(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.blobs[r.PathValue("digest")]; !ok {
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *Ollama) serveBlob(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	version := -1
	if err == nil {
		_, err = fmt.Sscanf(string(content), "GGUF adapter of version %d", &version)
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "blob: %v", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[r.PathValue("digest")] = version
	w.WriteHeader(http.StatusCreated)
}

func (s *Ollama) serveCreate(w http.ResponseWriter, r *http.Request) {
	var body api.CreateRequest
	if !decode(w, r, &body) {
		return
	}
	digests, ok := s.adapters(body.From) // a model made from a model keeps its adapters
	if !ok {
		refuse(w, http.StatusNotFound, "model '%s' not found", body.From)
		return
	}
	if s.Keep != "" {
		digests = append(digests, s.Keep)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range body.Adapters {
		if _, ok := s.blobs[d]; !ok {
			refuse(w, http.StatusBadRequest, "invalid digest format or no such blob %s", d)
			return
		}
		digests = append(digests, d)
	}
	s.models[body.Model] = digests
	reply(w, http.StatusOK, map[string]string{"status": "success"})
}

func (s *Ollama) serveDelete(w http.ResponseWriter, r *http.Request) {
	var body api.DeleteRequest
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		refuse(w, http.StatusBadRequest, "%v", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.models[body.Model]; !ok {
		refuse(w, http.StatusNotFound, "model '%s' not found", body.Model)
		return
	}
	delete(s.models, body.Model)
}
