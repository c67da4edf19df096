// Package fakeserver has fake inference servers for tests. [Llama], [VLLM], [SGLang], [Ollama] and [OpenAI] have the
// HTTP API of the real servers, with their fields, statuses and error messages. They sample from a
// [samplertest.Policy], so that completions and log-probs are known exactly.
//
// Every fake can be made to fail: its field Fault chooses a [samplertest.Fault] for each completion. [Engine] is the
// part that VLLM and SGLang share: adapters that are loaded at run time.
package fakeserver

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// CompletionRequest describes a completion request that a fake server received.
type CompletionRequest struct {
	N         int // number of completions before it, including checks and probes
	Model     string
	Prompt    []int32
	MaxTokens int
}

// Engine is the common part of the fakes whose servers load adapters at run time: a scripted policy, adapters by name,
// and faults. Set the exported fields before the first request.
type Engine struct {
	*httptest.Server
	Policy  samplertest.Policy
	Model   string // the base model's name
	Root    string // the base model's path
	Context int    // context length in tokens
	MaxRank int    // of adapters
	APIKey  string // empty: no key is required
	// Fixed says that the server was launched without support for loading adapters.
	Fixed bool
	// Fault returns the fault of a completion; nil: no faults.
	Fault func(CompletionRequest) samplertest.Fault
	// RefuseLoad returns the error message of a load; empty: the load succeeds. Nil: all loads succeed.
	RefuseLoad func(name string) string
	// LoadFault returns the fault of a load; nil: no faults.
	LoadFault func(name string) LoadFault
	// Applied maps a version to the version whose script answers; nil: the same version.
	Applied func(version int) int
	// Waiting returns the number of queued requests that the server reports; nil: 0.
	Waiting func() int

	mu          sync.Mutex
	adapters    map[string]loadedAdapter
	completions int
	running     int
	loads       int
	maxLoaded   int // maximum number of adapters loaded at the same time
	dead        bool
	asleep      bool
	pendingLoad func() // a load that LoadLost delayed
	closing     chan struct{}
	closeOnce   sync.Once
}

type loadedAdapter struct {
	dir     string
	version int
}

// start sets the defaults and starts the server.
func (e *Engine) start(p samplertest.Policy, model string, mux *http.ServeMux) {
	e.Policy, e.Model, e.Root, e.Context, e.MaxRank = p, model, "/models/"+model, 4096, 16
	e.adapters, e.closing = map[string]loadedAdapter{}, make(chan struct{})
	e.Server = httptest.NewServer(e.guarded(mux))
}

// Close ends hanging requests and stops the server.
func (e *Engine) Close() {
	e.closeOnce.Do(func() { close(e.closing) })
	e.Server.CloseClientConnections()
	e.Server.Close()
}

// Kill breaks all connections. The server answers no request until Revive.
func (e *Engine) Kill() {
	e.mu.Lock()
	e.dead = true
	e.mu.Unlock()
	e.CloseClientConnections()
}

// Revive restarts the server. It has no adapters.
func (e *Engine) Revive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead, e.asleep = false, false
	clear(e.adapters)
}

// Adapters returns the names of the loaded adapters, sorted.
func (e *Engine) Adapters() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := []string{}
	for name := range e.adapters {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Loads returns the number of loads so far, and the maximum number of adapters loaded at the same time.
func (e *Engine) Loads() (all, atOnce int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.loads, e.maxLoaded
}

// Asleep reports whether the server sleeps.
func (e *Engine) Asleep() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asleep
}

func (e *Engine) sleep(asleep bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asleep = asleep
}

// guarded breaks the connections of a dead server and checks the key.
func (e *Engine) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		dead := e.dead
		e.mu.Unlock()
		switch {
		case dead:
			panic(http.ErrAbortHandler)
		case e.APIKey != "" && r.URL.Path != "/health" && r.Header.Get("Authorization") != "Bearer "+e.APIKey:
			reply(w, http.StatusUnauthorized, map[string]any{"error": "Unauthorized"})
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// version returns the version whose script answers for a model; ok is false if the model is unknown.
func (e *Engine) version(model string) (version int, ok bool) {
	if model != e.Model {
		a, ok := e.adapter(model)
		if !ok {
			return 0, false
		}
		version = a.version
	}
	if e.Applied != nil {
		version = e.Applied(version)
	}
	return version, true
}

// begin counts a completion and returns its fault. Call end when it is answered.
func (e *Engine) begin(model string, r sampler.Request) (fault samplertest.Fault, end func()) {
	e.mu.Lock()
	n := e.completions
	e.completions++
	e.running++
	e.mu.Unlock()
	if e.Fault != nil {
		fault = e.Fault(CompletionRequest{n, model, r.Prompt, r.MaxTokens})
	}
	return fault, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.running--
	}
}

// Running returns the number of completions in flight.
func (e *Engine) Running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

// queue returns the numbers of running and queued requests that the server reports.
func (e *Engine) queue() (running, waiting int) {
	e.mu.Lock()
	running = e.running
	e.mu.Unlock()
	if e.Waiting != nil {
		waiting = e.Waiting()
	}
	return running, waiting
}

// listModels answers with the base model, whose path is root, and its adapters.
func (e *Engine) listModels(w http.ResponseWriter, owner, root string) {
	data := []any{map[string]any{"id": e.Model, "object": "model", "owned_by": owner, "root": root, "parent": nil,
		"max_model_len": e.Context}}
	for _, name := range e.Adapters() {
		if a, ok := e.adapter(name); ok {
			data = append(data, map[string]any{"id": name, "object": "model", "owned_by": owner, "root": a.dir,
				"parent": e.Model, "max_model_len": nil})
		}
	}
	reply(w, http.StatusOK, map[string]any{"object": "list", "data": data})
}

// spoil applies a fault to a completion.
func (e *Engine) spoil(c *sampler.Completion, fault samplertest.Fault) {
	switch fault {
	case samplertest.FaultBadID:
		c.IDs[0] = int32(e.Policy.Tokenizer.VocabSize()) + 7
	case samplertest.FaultEmpty:
		c.IDs, c.Logprobs, c.Text = []int32{}, []float32{}, ""
	case samplertest.FaultTooMany:
		for range 100 {
			c.IDs, c.Logprobs = append(c.IDs, c.IDs[0]), append(c.Logprobs, c.Logprobs[0])
		}
	}
}

// tokenize tokenizes text and parses control tokens, as Hugging Face's tokenizers do.
func (e *Engine) tokenize(text string) []int32 {
	return (&Llama{Policy: e.Policy}).tokenize(text, true)
}

// newMux returns a mux of the handlers. Other paths are answered with FastAPI's "Not Found".
func newMux(handlers map[string]http.HandlerFunc) *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range handlers {
		mux.HandleFunc(pattern, h)
	}
	mux.HandleFunc("/", notFound)
	return mux
}

func notFound(w http.ResponseWriter, _ *http.Request) {
	reply(w, http.StatusNotFound, map[string]any{"detail": "Not Found"})
}
