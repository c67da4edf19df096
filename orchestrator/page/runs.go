package page

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/view"
)

// runs finds runs in folders, and keeps those open that were asked for.
type runs struct {
	roots []string

	mu      sync.Mutex
	found   []located
	foundAt time.Time
	open    map[string]*openRun // by folder
	closed  bool
}

// located is a run that was found.
type located struct{ name, dir string }

// An openRun is a run that is open for reading.
type openRun struct {
	*view.Run
	file  os.FileInfo // of run.db when it was opened
	users int
	used  time.Time

	mu      sync.Mutex
	history *history
	listed  listedRun
	encoded struct { // the answer series
		newest string
		text   madeJSON
	}
	evaluated struct {
		newest string
		all    []orchestrator.Evaluation // without tasks
	}
	named   map[string]named // by kind
	config  string           // of which planned was read
	planned int64            // run.steps
	counted struct {         // training episodes of the steps until step
		step     int64
		episodes int
	}
}

const (
	// searchInterval is how old a list of runs may be.
	searchInterval = time.Second
	// maxOpen is how many runs stay open while nobody reads them.
	maxOpen = 16
)

func newRuns(roots []string) *runs { return &runs{roots: roots, open: map[string]*openRun{}} }

// locate returns the runs of all folders by their names, which are unique.
func (r *runs) locate(ctx context.Context) ([]located, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.foundAt) < searchInterval {
		return r.found, nil
	}
	var found []located
	taken := map[string]bool{}
	for _, root := range r.roots {
		dirs, err := view.Find(ctx, root)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a folder that is removed has no runs
			return nil, fmt.Errorf("find the runs in %s: %w", root, err)
		}
		for _, dir := range dirs {
			if view.IsComparison(dir) {
				continue
			}
			name := nameOf(root, dir, len(r.roots) > 1)
			for n := 2; taken[name]; n++ {
				name = fmt.Sprintf("%s (%d)", nameOf(root, dir, true), n)
			}
			taken[name] = true
			found = append(found, located{name, dir})
		}
	}
	r.found, r.foundAt = found, time.Now()
	return found, nil
}

// nameOf is the path of a run in its root, or the name of its folder if it is the
// root itself. With several roots it begins with that of its root.
func nameOf(root, dir string, several bool) string {
	full, err := filepath.Abs(root)
	if err != nil {
		full = root
	}
	below, err := filepath.Rel(root, dir)
	switch {
	case err != nil:
		return filepath.Base(dir)
	case below == ".":
		return filepath.Base(full)
	case several:
		return filepath.ToSlash(filepath.Join(filepath.Base(full), below))
	}
	return filepath.ToSlash(below)
}

// dirOf returns the folder of a run that was found. A name is never used as a path.
func (r *runs) dirOf(ctx context.Context, name string) (string, error) {
	found, err := r.locate(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(found, func(l located) bool { return l.name == name })
	if i < 0 {
		return "", &answerError{http.StatusNotFound, "there is no run " + quoted(name), "the first view lists the runs"}
	}
	return found[i].dir, nil
}

// use opens the run in a folder for reading. The caller must call done.
func (r *runs) use(ctx context.Context, dir string) (_ *openRun, done func(), err error) {
	file, err := os.Stat(filepath.Join(dir, "run.db"))
	if err != nil {
		return nil, nil, fmt.Errorf("the run in %s is gone: %w", dir, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, errClosed
	}
	o := r.open[dir]
	if o == nil || !os.SameFile(o.file, file) { // --from-step replaces the database
		opened, err := view.Open(ctx, dir)
		if err != nil {
			return nil, nil, err
		}
		r.drop(dir)
		o = &openRun{Run: opened, file: file, named: map[string]named{}}
		r.open[dir] = o
	}
	o.users++
	o.used = time.Now()
	return o, func() { r.release(dir, o) }, nil
}

// release ends the use of a run, and closes runs that nobody has used lately.
func (r *runs) release(dir string, o *openRun) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.users--
	if r.open[dir] != o && o.users == 0 { // it was replaced meanwhile
		_ = o.Close() // it was open for reading
	}
	for len(r.open) > maxOpen {
		oldest := ""
		for dir, o := range r.open {
			if o.users == 0 && (oldest == "" || o.used.Before(r.open[oldest].used)) {
				oldest = dir
			}
		}
		if oldest == "" {
			return
		}
		r.drop(oldest)
	}
}

// drop forgets an open run. Its last user closes it.
func (r *runs) drop(dir string) {
	o := r.open[dir]
	if o == nil {
		return
	}
	delete(r.open, dir)
	if o.users == 0 {
		_ = o.Close() // it was open for reading
	}
}

// close closes the runs that nobody uses. The last user closes each of the others. No run
// is opened any more.
func (r *runs) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for dir := range r.open {
		r.drop(dir)
	}
	return nil
}

// ofRun returns a function that answers for the run that a request names.
func ofRun(p *Page, f func(ctx context.Context, o *openRun, r *http.Request) (any, error)) func(
	context.Context, *http.Request) (any, error) {
	return func(ctx context.Context, r *http.Request) (any, error) {
		dir, err := p.runs.dirOf(ctx, r.PathValue("name"))
		if err != nil {
			return nil, err
		}
		o, done, err := p.runs.use(ctx, dir)
		if err != nil {
			return nil, err
		}
		defer done()
		return f(ctx, o, r)
	}
}

// listedRun is a run in the list of runs.
type listedRun struct {
	Name      string    `json:"name"`
	Dir       string    `json:"dir"`
	Live      bool      `json:"live"`
	State     string    `json:"state"` // as empo2 ls names it; empty: unknown
	Problem   string    `json:"problem"`
	Steps     int64     `json:"steps"`
	Version   int       `json:"version"`
	Episodes  int       `json:"episodes"`
	Evaluated int       `json:"evaluated"`
	Failed    int       `json:"failed"`
	Success   number    `json:"success"` // of the newest evaluation
	Bytes     int64     `json:"bytes"`
	Changed   time.Time `json:"changed"`
}

type runsAnswer struct {
	Runs []listedRun `json:"runs"`
}

func (p *Page) answerRuns(ctx context.Context, _ *http.Request) (any, error) {
	found, err := p.runs.locate(ctx)
	if err != nil {
		return nil, err
	}
	out := runsAnswer{Runs: make([]listedRun, len(found))}
	for i, l := range found {
		out.Runs[i] = p.list(ctx, l)
	}
	return out, nil
}

// list describes a run. What cannot be read is a problem of this run only.
func (p *Page) list(ctx context.Context, l located) listedRun {
	o, done, err := p.runs.use(ctx, l.dir)
	if err != nil {
		problem, _, _ := strings.Cut(err.Error(), "\n  hint: ")
		return listedRun{Name: l.name, Dir: l.dir, Problem: problem, Success: unknown}
	}
	defer done()
	out, err := o.describe(ctx)
	if err != nil {
		out.Problem, _, _ = strings.Cut(err.Error(), "\n  hint: ")
	}
	out.Name = l.name
	return out
}

// evaluations returns the evaluations without their tasks. They are read again when the
// run has new ones. The caller holds o.mu.
func (o *openRun) evaluations(ctx context.Context) ([]orchestrator.Evaluation, error) {
	newest, err := o.Newest(ctx)
	if err != nil || newest == o.evaluated.newest {
		return o.evaluated.all, err
	}
	all, err := o.Evaluations(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Tasks, all[i].Environment = nil, nil // they may be long
	}
	o.evaluated.newest, o.evaluated.all = newest, all
	return all, nil
}

// overview is Overview, whose evaluation has no tasks. The caller holds o.mu.
func (o *openRun) overview(ctx context.Context) (view.Overview, error) {
	out, err := o.Totals(ctx)
	if err != nil {
		return out, err
	}
	all, err := o.evaluations(ctx)
	out.Evaluation = view.NewestEvaluation(all)
	return out, err
}

// describe returns the run's line of the list. It is read again if a file has changed.
func (o *openRun) describe(ctx context.Context) (listedRun, error) {
	disk := view.OnDisk(o.Dir)
	o.mu.Lock()
	defer o.mu.Unlock()
	s, now := readStatus(o.Dir), time.Now()
	live, state := s.live(now), s.state(now)
	if o.listed.Bytes == disk.Bytes && o.listed.Changed.Equal(disk.Changed) {
		o.listed.Live, o.listed.State = live, state
		return o.listed, nil
	}
	v, err := o.overview(ctx)
	out := listedRun{Dir: o.Dir, Live: live, State: state, Steps: v.Steps, Version: v.Version, Episodes: v.Episodes,
		Evaluated: v.Evaluated, Failed: v.Failed, Success: unknown, Bytes: disk.Bytes, Changed: disk.Changed}
	if v.Evaluation != nil {
		out.Success = number(v.Evaluation.Success)
	}
	if err == nil {
		o.listed = out
	}
	return out, err
}
