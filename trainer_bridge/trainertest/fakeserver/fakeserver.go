// Package fakeserver is an in-process trainer that speaks the trainer's HTTP
// protocol without a model: its log-probs are a function of tokens and a
// version number, and training counts that number up.
//
// It keeps the promises that clients rely on (order by sequence number, one
// execution per number, long polls, checkpoints on disk) and breaks them on
// request, see [Fault].
package fakeserver

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// Options configure a Server. The zero value is a trainer without token that
// writes to a temporary directory.
type Options struct {
	Root  string // run directory; empty: a temporary one
	Token string // empty: anybody may ask
	// Logprobs is the policy: len(tokens)-1 log-probs in nats under a version
	// of it; nil is [Logprobs]. A fake inference server that serves the same
	// function passes every comparison with this trainer.
	Logprobs func(version int, tokens []int32) []float32
	// Fault is asked about every request as it arrives; nil, and the zero
	// Fault, let it pass. It is called from several goroutines.
	Fault func(Call) Fault
	// Hold is how long a long poll is held; 0 is 2 seconds.
	Hold time.Duration
	// Listener is what the server listens at; nil is a port of the loopback
	// interface. One in memory allows tests in fake time.
	Listener net.Listener
}

// Call is one request as it arrived.
type Call struct {
	Op   string // last element of the path, for example "optim_step"
	Seq  int64  // 0 if it has none
	Body json.RawMessage
}

// Fault is what goes wrong with one request. At most one field is set, except
// for Message, and RetryAfter with Status.
type Fault struct {
	Status     int           // answer with this HTTP status, without doing the work
	RetryAfter time.Duration // say so in the answer's header
	Category   string        // accept it, then fail it with this category
	Message    string        // what is said then
	Delay      time.Duration // do the work after this time
	Hang       bool          // never answer
	Lose       bool          // do the work and drop the connection instead of answering
	Die        bool          // drop all connections and answer nothing any more
}

// Server is a fake trainer. Its methods are safe for concurrent use.
type Server struct {
	URL  string
	Root string

	opts Options
	http *httptest.Server
	stop chan struct{} // closed when the server ends: frees what hangs
	once sync.Once

	mu     sync.Mutex
	calls  []Call
	models map[string]*model
	names  int
}

// New starts a server that ends with the test.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Root == "" {
		opts.Root = t.TempDir()
	}
	if opts.Logprobs == nil {
		opts.Logprobs = Logprobs
	}
	if opts.Hold == 0 {
		opts.Hold = 2 * time.Second
	}
	s := &Server{Root: opts.Root, opts: opts, stop: make(chan struct{}), models: map[string]*model{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if opts.Listener != nil {
		s.http.Listener.Close()
		s.http.Listener = opts.Listener
	}
	s.http.Start()
	s.URL = s.http.URL
	t.Cleanup(s.Close)
	return s
}

// Close ends the server. It may be called again.
func (s *Server) Close() {
	s.die()
	s.http.Close()
}

// die drops every connection and refuses new work.
func (s *Server) die() {
	s.once.Do(func() { close(s.stop) })
	s.http.CloseClientConnections()
}

// Calls returns all requests so far in the order of their arrival.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Count says how often an op was requested, repeats included.
func (s *Server) Count(op string) int {
	n := 0
	for _, c := range s.Calls() {
		if c.Op == op {
			n++
		}
	}
	return n
}

// State is what the adapter trained last looks like.
type State struct {
	Version int // of the policy: see [Server.State]
	Steps   int // optimizer steps, restored with a checkpoint
	Pending int // rows whose gradient awaits an optimizer step
	Done    int // requests executed; a repeated one counts once
}

// State describes the newest model. Its version is the number in the name of
// the last export or checkpoint, plus one if an optimizer step came after it:
// the name that the next export is expected to have.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[s.modelID(s.names)]
	if m == nil {
		return State{}
	}
	return m.state()
}

// Logprobs are deterministic log-probs between −4 and −0.05 nats. They depend
// on the version, the token and its two predecessors, as of a small language
// model.
func Logprobs(version int, tokens []int32) []float32 {
	if len(tokens) == 0 {
		return nil
	}
	out := make([]float32, len(tokens)-1)
	for i := range out {
		h := uint64(version+1) * 0x9e3779b97f4a7c15
		for _, t := range tokens[max(0, i-1) : i+2] {
			h = (h ^ uint64(uint32(t))) * 0xff51afd7ed558ccd
			h ^= h >> 32
		}
		out[i] = -0.05 - 3.95*float32(h>>40)/(1<<24)
	}
	return out
}
