// Package fakeserver has servers for tests that speak the HTTP of llama-server,
// vLLM, SGLang, Ollama and the OpenAI API. Their policy is a script.
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

// Seen is a completion that a fake is asked for.
type Seen struct {
	N         int // completions before it, checks and probes included
	Model     string
	Prompt    []int32
	MaxTokens int
}

// Engine is what the fakes of servers that load adapters at run time share: a
// scripted policy, adapters by name, and what goes wrong. Set the exported
// fields before the first request.
type Engine struct {
	*httptest.Server
	Policy  samplertest.Policy
	Model   string // the base model's name
	Root    string // where it has it from
	Context int    // tokens
	MaxRank int
	APIKey  string // empty: none is asked for
	// Fixed says that adapters can't be loaded.
	Fixed bool
	// Fault says what goes wrong with a completion; nil: nothing.
	Fault func(Seen) samplertest.Fault
	// RefuseLoad is the message of a load that fails; empty: it does not.
	RefuseLoad func(name string) string
	// LoadFault says what else goes wrong with a load; nil: nothing.
	LoadFault func(name string) LoadFault
	// Applied maps a version to the one whose script answers; nil: itself.
	Applied func(version int) int
	// Waiting is what the server says is waiting besides what runs.
	Waiting func() int

	mu          sync.Mutex
	adapters    map[string]loadedAdapter
	completions int
	running     int
	loads       int
	most        int // adapters loaded at once
	dead        bool
	asleep      bool
	late        func() // a load that is not done yet
	closing     chan struct{}
	closeOnce   sync.Once
}

type loadedAdapter struct {
	dir     string
	version int
}

func (e *Engine) start(p samplertest.Policy, model string, mux *http.ServeMux) {
	e.Policy, e.Model, e.Root, e.Context, e.MaxRank = p, model, "/models/"+model, 4096, 16
	e.adapters, e.closing = map[string]loadedAdapter{}, make(chan struct{})
	e.Server = httptest.NewServer(e.guarded(mux))
}

// Close lets go of what hangs and stops the server.
func (e *Engine) Close() {
	e.closeOnce.Do(func() { close(e.closing) })
	e.Server.CloseClientConnections()
	e.Server.Close()
}

// Kill cuts every connection and accepts none until Revive.
func (e *Engine) Kill() {
	e.mu.Lock()
	e.dead = true
	e.mu.Unlock()
	e.CloseClientConnections()
}

// Revive is a fresh start: no adapter is loaded.
func (e *Engine) Revive() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead, e.asleep = false, false
	clear(e.adapters)
}

// Adapters are the names that are loaded, in order.
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

// Loads is how many adapters were loaded so far, and how many at most at once.
func (e *Engine) Loads() (all, atOnce int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.loads, e.most
}

// Asleep says whether the server gave its memory back.
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

// guarded cuts the connections of a dead server and wants the key.
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

// version is whose script answers for a model; ok is false if there is none.
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

// begin counts a completion and says what goes wrong with it; end is for when
// it is answered.
func (e *Engine) begin(model string, r sampler.Request) (fault samplertest.Fault, end func()) {
	e.mu.Lock()
	n := e.completions
	e.completions++
	e.running++
	e.mu.Unlock()
	if e.Fault != nil {
		fault = e.Fault(Seen{n, model, r.Prompt, r.MaxTokens})
	}
	return fault, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.running--
	}
}

// Running is how many completions are in flight.
func (e *Engine) Running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running
}

// busy is what runs and waits.
func (e *Engine) busy() (running, waiting int) {
	e.mu.Lock()
	running = e.running
	e.mu.Unlock()
	if e.Waiting != nil {
		waiting = e.Waiting()
	}
	return running, waiting
}

// hang waits until the client gives up or the server dies or closes.
func (e *Engine) hang(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-e.closing:
	}
}

// spoil changes a good completion into one with the fault.
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

// breakOff promises a whole body, writes half of it and breaks the connection.
func breakOff(w http.ResponseWriter, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // the types are ours
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	_, _ = w.Write(text[:len(text)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// tokenize parses control tokens, as Hugging Face's tokenizers do.
func (e *Engine) tokenize(text string) []int32 {
	return (&Llama{Policy: e.Policy}).tokenize(text, true)
}

// visible is the text without the end token, as servers decode it.
func visible(p samplertest.Policy, ids []int32) string {
	return p.Tokenizer.Decode(slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return id == samplertest.End }))
}

// serve makes a mux of the handlers; other paths are not found, in FastAPI's
// words.
func serve(handlers map[string]http.HandlerFunc) *http.ServeMux {
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
