// Package faultyhttp makes the HTTP server of a test misbehave, whatever protocol it
// speaks. [Open] starts a proxy in front of it, and [Proxy.Once] lets it answer the next
// request with a [Fault]. [Faults] has all of them.
package faultyhttp

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// A Fault is one way to misbehave.
type Fault struct {
	Name string
	// Hangs: the exchange ends only with the client's deadline.
	Hangs bool
	// Refused: the answer must be an error, and is not worth another try.
	Refused bool
	// Hinted: the client's error must have a remedy.
	Hinted bool
	// Serve answers a request. right is the answer of the server itself.
	Serve func(w http.ResponseWriter, r *http.Request, right *httptest.ResponseRecorder)
}

// A Proxy is in front of a server. It is safe for concurrent use.
type Proxy struct {
	URL string

	next  http.Handler
	match func(path string) bool

	mu     sync.Mutex
	fault  *Fault
	served int
}

// Open starts a proxy in front of the server at a URL, until the test ends. Its faults
// replace only answers to requests whose path matches.
func Open(t testing.TB, server string, match func(path string) bool) *Proxy {
	t.Helper()
	to, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	next := httputil.NewSingleHostReverseProxy(to)
	next.Transport = transport
	next.ErrorLog = log.New(io.Discard, "", 0) // a test closes servers at any moment
	p := &Proxy{next: next, match: match}
	front := httptest.NewServer(p)
	front.Config.ErrorLog = next.ErrorLog
	p.URL = front.URL
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// Once lets the next request fail.
func (p *Proxy) Once(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = &f
}

// Served returns how many requests were answered with a fault.
func (p *Proxy) Served() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := p.take(r)
	if fault == nil {
		p.next.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body) // a request that is read ends when the client leaves
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	right := httptest.NewRecorder()
	p.next.ServeHTTP(right, r)
	fault.Serve(w, r, right)
}

func (p *Proxy) take(r *http.Request) *Fault {
	if !p.match(r.URL.Path) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.fault
	if f != nil {
		p.fault = nil
		p.served++
	}
	return f
}
