// Package page serves the live page of runs: a program of the browser (folder
// assets), and what it shows, as JSON.
//
//   - [New] returns the handler over folders of runs; [Page.Serve] serves it on this
//     machine only.
//   - runs.go finds the runs and opens them for reading, with package view. A run may
//     be running, and nothing in it is changed, except when a tip is pinned or removed.
//   - guard.go refuses requests of other origins. Texts of environments and models
//     are data: they are sent as JSON, and the browser never parses them as HTML.
//   - each other file has the answer to one address. Answers are bounded.
//   - [Page.Export] writes one HTML file that holds the answers.
package page

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
)

//go:embed assets
var embedded embed.FS

// assets are the files of the browser's side.
func assets() fs.FS {
	files, err := fs.Sub(embedded, "assets")
	if err != nil {
		panic(err) // the folder is embedded
	}
	return files
}

// Options configure a [Page].
type Options struct {
	// Roots are folders of runs, or of folders of runs. Runs that appear later are
	// found.
	Roots []string
	// Recall answers which tips the memory recalls for a state. Nil: it cannot be
	// asked.
	Recall func(ctx context.Context, r *view.Run, scope, state string) ([]Recalled, error)
	// Edit pins, unpins or removes a tip of the run in a folder. Nil: it cannot be done.
	Edit func(ctx context.Context, dir, what string, tip ledger.TipKey) error
}

// A Page is the handler of the live page. Close it after use. It is safe for
// concurrent use.
type Page struct {
	options Options
	mux     *http.ServeMux
	runs    *runs
	done    context.Context // ends with Close, and with it the streams of events
	close   context.CancelFunc

	streaming sync.Mutex
	streams   int // that are open
	ended     sync.WaitGroup
}

// New returns the page of the runs in folders.
func New(o Options) *Page {
	p := &Page{options: o, mux: http.NewServeMux(), runs: newRuns(o.Roots)}
	p.done, p.close = context.WithCancel(context.Background())
	files := newAssets(assets())
	p.mux.Handle("GET /", files)
	p.mux.HandleFunc("GET /api/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, errNotFound)
	})
	p.answer("GET /api/runs", p.answerRuns)
	p.answer("GET /api/runs/{name}/now", ofRun(p, answerNow))
	p.answer("GET /api/runs/{name}/series", ofRun(p, answerSeries))
	p.answer("GET /api/runs/{name}/episodes", ofRun(p, answerEpisodes))
	p.answer("GET /api/runs/{name}/episode", ofRun(p, answerEpisode))
	p.answer("GET /api/runs/{name}/tips", ofRun(p, answerTips))
	p.answer("GET /api/runs/{name}/recall", ofRun(p, p.answerRecall))
	p.answer("POST /api/runs/{name}/tips/{edit}", ofRun(p, p.answerEdit))
	p.answer("GET /api/compare", p.answerCompare)
	p.mux.HandleFunc("GET /api/runs/{name}/csv", p.serveCSV)
	p.mux.HandleFunc("GET /api/events", p.serveEvents)
	return p
}

// Close ends the streams of events and closes the runs.
func (p *Page) Close() error {
	p.close()
	p.streaming.Lock() // no stream begins any more
	p.streaming.Unlock()
	p.ended.Wait()
	return p.runs.close()
}

// ServeHTTP implements [http.Handler].
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := guard(w, r); err != nil {
		writeError(w, err)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// Limits of the server. No answer takes long, except a stream of events.
const (
	readTimeout = 10 * time.Second
	idleTimeout = time.Minute
	maxHeader   = 16 << 10
	stopTimeout = 2 * time.Second
)

// Serve serves the page until ctx ends.
func (p *Page) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: p, ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		p.close() // else the streams keep their connections
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(bound) != nil {
			server.Close()
		}
	})
	err := server.Serve(listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the page: %w", err)
}

// Ports of pages that follow a command, below those that systems give to clients.
const (
	firstPort = 20_000
	manyPorts = 10_000
)

// ListenFor opens a port for the page of a folder. It is always the same port, so that an
// open page connects again after a run was killed and continued; if it is taken, it is any
// free one.
func ListenFor(ctx context.Context, dir string) (net.Listener, error) {
	if path, err := filepath.Abs(dir); err == nil {
		dir = path
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(dir)) // never fails
	if l, err := Listen(ctx, firstPort+int(sum.Sum32()%manyPorts)); err == nil {
		return l, nil
	}
	return Listen(ctx, 0)
}

// Listen opens a port on this machine only. 0: any port that is free.
func Listen(ctx context.Context, port int) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("open port %d for the page: %w\n  hint: choose another one with --port, or leave it out",
			port, err)
	}
	return l, nil
}
