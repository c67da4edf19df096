package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/orchestrator/view"
)

const (
	// lookInterval is the time between two looks at the files of a run. A look costs
	// some microseconds.
	lookInterval = 250 * time.Millisecond
	// eventInterval is the least time between two events of a stream, because a browser
	// asks for the answers again at each.
	eventInterval = 700 * time.Millisecond
	// keepAlive is the time between two lines that show that the connection works.
	keepAlive = 10 * time.Second
	// writeTimeout bounds how long a browser may take for an event.
	writeTimeout = 10 * time.Second
	// maxStreams is the number of streams of events at the same time.
	maxStreams = 64
)

// change is what an event says about a run.
type change struct {
	Run      string `json:"run"`
	Live     bool   `json:"live"`
	Steps    int64  `json:"steps"`
	Version  int    `json:"version"`
	Episodes int    `json:"episodes"` // that are trained
	// Untrained grows with each other episode.
	Untrained int64     `json:"untrained"`
	Changed   time.Time `json:"changed"`
}

// serveEvents sends an event whenever a file of a run has changed. The first event
// says how the run is.
func (p *Page) serveEvents(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("run")
	dir, err := p.runs.dirOf(r.Context(), name)
	if err == nil {
		err = p.addStream()
	}
	if err != nil {
		writeError(w, err)
		return
	}
	defer p.endStream()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.done, cancel)()
	s := stream{w: w, control: http.NewResponseController(w), name: name, dir: dir, page: p}
	w.Header().Set("Content-Type", "text/event-stream")
	s.run(ctx)
}

// addStream counts a stream of events, and refuses it if there are too many.
func (p *Page) addStream() error {
	p.streaming.Lock()
	defer p.streaming.Unlock()
	switch {
	case p.done.Err() != nil:
		return errClosed
	case p.streams >= maxStreams:
		return &answerError{http.StatusTooManyRequests, fmt.Sprintf("the page serves %d streams of events", maxStreams),
			"close some of its tabs"}
	}
	p.streams++
	p.ended.Add(1)
	return nil
}

func (p *Page) endStream() {
	p.streaming.Lock()
	defer p.streaming.Unlock()
	p.streams--
	p.ended.Done()
}

// A stream sends the events of a run to one browser.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	page    *Page
	name    string
	dir     string
	last    stamp
	sent    time.Time // the last event
	gone    bool
}

func (s *stream) run(ctx context.Context) {
	look, alive := time.NewTicker(lookInterval), time.NewTicker(keepAlive)
	defer look.Stop()
	defer alive.Stop()
	for err := s.look(ctx); err == nil; {
		select {
		case <-ctx.Done():
			return
		case <-alive.C:
			err = s.send(": alive\n\n")
		case <-look.C:
			err = s.look(ctx)
		}
	}
}

// look sends an event if the run has changed.
func (s *stream) look(ctx context.Context) error {
	now := stampOf(s.dir)
	if now == s.last || time.Since(s.sent) < eventInterval {
		return nil
	}
	s.last, s.sent = now, time.Now()
	if now.files[0].modified.IsZero() { // no database
		return s.sendGone()
	}
	c, err := s.page.changeOf(ctx, s.name, s.dir)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrNotExist):
		return s.sendGone()
	case err != nil: // it is being written; the next look asks again
		s.last = stamp{}
		return nil
	}
	s.gone = false
	return s.event("change", c)
}

func (s *stream) sendGone() error {
	if s.gone {
		return nil
	}
	s.gone = true
	return s.event("gone", map[string]string{"run": s.name})
}

func (s *stream) event(name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return s.send(fmt.Sprintf("event: %s\ndata: %s\n\n", name, text))
}

func (s *stream) send(text string) error {
	// A writer of a test may know no deadlines.
	_ = s.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}

// stamp tells whether a run has changed.
type stamp struct{ files [3]fileStamp }

type fileStamp struct {
	modified time.Time
	size     int64
}

// stampOf looks at the files of a run.
func stampOf(dir string) (s stamp) {
	for i, name := range []string{"run.db", "run.db-wal", "status.json"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil {
			s.files[i] = fileStamp{info.ModTime(), info.Size()}
		}
	}
	return s
}

func (p *Page) changeOf(ctx context.Context, name, dir string) (change, error) {
	o, done, err := p.runs.use(ctx, dir)
	if err != nil {
		return change{}, err
	}
	defer done()
	step, version, err := o.Last(ctx)
	if err != nil {
		return change{}, err
	}
	episodes, err := o.newest(ctx, step)
	if err != nil {
		return change{}, err
	}
	untrained, err := o.NewestUntrained(ctx)
	return change{Run: name, Live: readStatus(dir).live(time.Now()), Steps: step, Version: version, Episodes: episodes,
		Untrained: untrained, Changed: view.OnDisk(dir).Changed}, err
}

// newest returns the number of training episodes, of which those of the steps until
// last do not change any more.
func (o *openRun) newest(ctx context.Context, last int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.counted.step < last {
		until, err := o.CountBetween(ctx, o.counted.step, last)
		if err != nil {
			return 0, err
		}
		o.counted.step, o.counted.episodes = last, o.counted.episodes+until
	}
	going, err := o.CountBetween(ctx, last, math.MaxInt64)
	return o.counted.episodes + going, err
}
