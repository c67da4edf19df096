package remotetest

import (
	"io"
	"net/http"
	"strings"
	"sync"
)

// Counter counts requests or messages by name. It is safe for concurrent use.
type Counter struct {
	mu    sync.Mutex
	calls map[string]int
}

// Add counts one call and returns how many came before it.
func (c *Counter) Add(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls == nil {
		c.calls = make(map[string]int)
	}
	c.calls[name]++
	return c.calls[name] - 1
}

// Calls returns the number of calls so far.
func (c *Counter) Calls(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[name]
}

// A Script is embedded in a fake server. It counts the requests by path and
// lets a test answer some of them.
type Script struct {
	Counter
	// Before may answer a request: it returns true if it has done so. It gets
	// the number of earlier requests of the same path. Nil answers none.
	Before func(w http.ResponseWriter, r *http.Request, n int) bool
}

// Answered counts a request and reports whether the test has answered it.
func (s *Script) Answered(w http.ResponseWriter, r *http.Request) bool {
	n := s.Add(r.URL.Path)
	return s.Before != nil && s.Before(w, r, n)
}

// Always is an upper limit for [On] that no test reaches.
const Always = 1 << 30

// On is a [Script.Before] that answers the requests first to last (counted
// from 0) of the paths that end with path.
func On(path string, first, last int, do http.HandlerFunc) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, r *http.Request, n int) bool {
		if !strings.HasSuffix(r.URL.Path, path) || n < first || n > last {
			return false
		}
		do(w, r)
		return true
	}
}

// Only is a server that has one path and answers it with JSON.
func Only(path string, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path {
			http.NotFound(w, r)
			return
		}
		Answer(w, body)
	}
}

// Hang waits until the client closes the connection. A server notices that
// only after it has read the body.
func Hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

// Abort cuts the connection.
func Abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
