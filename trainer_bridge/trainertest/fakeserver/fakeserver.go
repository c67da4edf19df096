// Package fakeserver is a trainer for tests. It speaks the trainer's HTTP
// protocol but has no model. Its log-probs are a function of the tokens and a
// version number, and an optimizer step increments that number. Start with
// [New].
//
// It has the properties that clients rely on: order by sequence number, one
// execution per number, long polls, and checkpoints on disk. A [Fault] makes it
// fail.
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
	Token string // bearer token; empty: none is needed
	// Logprobs is the policy: it returns len(tokens)-1 log-probs in nats under a
	// version. Nil is [Logprobs]. A fake inference server with the same function
	// passes every comparison with this trainer.
	Logprobs func(version int, tokens []int32) []float32
	// SkyRL: it answers like SkyRL's Tinker server: skyrl.go.
	SkyRL bool
	// Scale is that of the gradients of a SkyRL server. The zero value is that of its JAX backend.
	Scale Scale
	// Fault is called for every request as it arrives, by several goroutines.
	// Nil and the zero Fault mean no failure.
	Fault func(Call) Fault
	// Hold is how long a long poll is held; 0 is 2 seconds.
	Hold time.Duration
	// Listener is the server's listener; nil is a port of the loopback
	// interface. A listener in memory allows tests in fake time.
	Listener net.Listener
}

// Scale says how gradients of rows and positions are combined.
type Scale int

// The scales.
const (
	Means    Scale = iota // the mean over rows of the mean over positions
	Sums                  // the sum over both
	RowMeans              // the mean over rows of the sum over positions: no known server
)

// Call is one request that arrived.
type Call struct {
	Op   string // last element of the path, for example "optim_step"
	Seq  int64  // sequence number; 0 if it has none
	Body json.RawMessage
}

// Fault is a failure of one request. At most one field is set, apart from
// Message and Details with Category, and RetryAfter with Status.
type Fault struct {
	Status     int           // answer with this HTTP status, without doing the work
	RetryAfter time.Duration // value of the answer's header Retry-After
	Category   string        // accept the request, then fail with this category
	Message    string        // text of the failure
	// Details are further fields of the failure, for example out_of_memory.
	Details map[string]any
	Delay   time.Duration // do the work after this time
	Hang    bool          // never answer
	Lose    bool          // do the work, then drop the connection
	Die     bool          // drop all connections and never answer again
}

// Server is a fake trainer. Its methods are safe for concurrent use.
type Server struct {
	URL  string
	Root string

	opts Options
	http *httptest.Server
	stop chan struct{} // closed when the server ends: releases requests that hang
	once sync.Once

	mu     sync.Mutex
	calls  []Call
	models map[string]*model
	names  int
	// futures are the results of a SkyRL server, by their numbers less one.
	futures []any
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

// Close ends the server. It may be called more than once.
func (s *Server) Close() {
	s.die()
	s.http.Close()
}

// die drops every connection and refuses new work.
func (s *Server) die() {
	s.once.Do(func() { close(s.stop) })
	s.http.CloseClientConnections()
}

// Calls returns all requests in order of arrival.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Count returns how often an op was requested, retries included.
func (s *Server) Count(op string) int {
	n := 0
	for _, c := range s.Calls() {
		if c.Op == op {
			n++
		}
	}
	return n
}

// State describes an adapter.
type State struct {
	Version int // of the policy: see [Server.State]
	Steps   int // optimizer steps, restored with a checkpoint
	Pending int // rows whose gradient was not applied yet
	Done    int // requests executed; a retried request counts once
}

// State describes the newest adapter. Its version is the number in the name of
// the last export or checkpoint. After an optimizer step it is one more, which is
// the number that the next export should have.
func (s *Server) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.models[s.modelID(s.names)]
	if m == nil {
		return State{}
	}
	return m.state()
}

// Logprobs returns deterministic log-probs between −4 and −0.05 nats. They depend
// on the version, the token and its two predecessors, like those of a small
// language model.
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
