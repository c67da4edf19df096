// Package watchdog knows what a run waits for: which request, episode, call of
// the trainer or start of a child process is in flight, and since when. It names
// a stall in the log before a deadline ends it.
//
// A [Watch] travels in the context ([With]). Code that waits for something calls
// [Begin] before and the returned function after. Without a Watch in the context,
// Begin has no effect. [Watch.Run] reports what takes too long.
//
// The package imports no other package of this project, so every package may use
// it.
package watchdog

import (
	"context"
	"strings"
	"sync"
	"time"
)

// An Item is something in flight.
type Item struct {
	Subsystem string        `json:"what"`   // for example "trainer", "server", "environment", "start"
	What      string        `json:"detail"` // for example "sample v3 (step 4, episode 1/7)"
	Since     time.Time     `json:"since"`
	Limit     time.Duration `json:"limit,omitempty"` // its deadline, counted from Since; 0: unknown
	// Others is the number of younger items of the same subsystem.
	Others int `json:"others,omitempty"`

	kind     string        // items of one kind take similar times
	reportAt time.Duration // the age at which it is reported next
}

// A Watch holds what is in flight. It is safe for concurrent use.
type Watch struct {
	name string // of the run; empty: the program

	mu       sync.Mutex
	flying   map[*Item]struct{}
	longest  map[string]time.Duration // by kind: the longest time that one took
	finished int64                    // items that ended
	progress time.Time                // when the last one ended
	stalled  bool                     // the stall was reported
	phase    *Phase                   // nil: not known yet
	doing    string                   // what the run does now
	last     string                   // its newest result
	children []*Watch
	parent   *Watch         // nil: it has none
	owned    map[Child]bool // processes that run; true: it was reported that it is stopped
	// isStopped reports whether a process is stopped; tests replace it.
	isStopped func(pid int) bool
}

// New returns a Watch without items.
func New() *Watch { return newWatch("") }

func newWatch(name string) *Watch {
	return &Watch{name: name, flying: map[*Item]struct{}{}, longest: map[string]time.Duration{}, progress: time.Now(),
		owned: map[Child]bool{}, isStopped: isStopped}
}

// Child returns a Watch for one run. Run of the parent reports its items too,
// until remove is called. The parent may be nil.
func (w *Watch) Child(name string) (child *Watch, remove func()) {
	child = newWatch(name)
	if w == nil {
		return child, func() {}
	}
	child.parent = w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.children = append(w.children, child)
	return child, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, c := range w.children {
			if c == child {
				w.children = append(w.children[:i:i], w.children[i+1:]...)
				return
			}
		}
	}
}

// Last says what the run's newest result is.
func (w *Watch) Last(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = text
}

type (
	watchKey struct{}
	labelKey struct{}
)

// With returns a context whose items belong to w.
func With(ctx context.Context, w *Watch) context.Context {
	return context.WithValue(ctx, watchKey{}, w)
}

// From returns the context's Watch, or nil if it has none.
func From(ctx context.Context) *Watch {
	w, _ := ctx.Value(watchKey{}).(*Watch)
	return w
}

// Label returns a context whose items are named with a label, for example the
// episode that they belong to.
func Label(ctx context.Context, label string) context.Context {
	if From(ctx) == nil {
		return ctx
	}
	return context.WithValue(ctx, labelKey{}, label)
}

// Begin records that something is in flight until end is called. The first word
// of what names its kind. The time limit is that of the call; 0: unknown.
func Begin(ctx context.Context, subsystem, what string, limit time.Duration) (end func()) {
	w := From(ctx)
	if w == nil {
		return func() {}
	}
	kind, _, _ := strings.Cut(what, " ")
	if label, ok := ctx.Value(labelKey{}).(string); ok {
		what += " (" + label + ")"
	}
	i := &Item{Subsystem: subsystem, What: what, Since: time.Now(), Limit: limit, kind: subsystem + " " + kind}
	w.mu.Lock()
	defer w.mu.Unlock()
	i.reportAt = w.patience(i)
	w.flying[i] = struct{}{}
	return func() { w.end(i) }
}

func (w *Watch) end(i *Item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.flying[i]; !ok {
		return
	}
	delete(w.flying, i)
	now := time.Now()
	w.longest[i.kind] = max(w.longest[i.kind], now.Sub(i.Since))
	w.finished++
	w.progress, w.stalled = now, false
}

const (
	// leastPatience is the age below which nothing is reported.
	leastPatience = 10 * time.Second
	// startPatience is leastPatience for starts of trainers and servers, which load a model.
	startPatience = 30 * time.Second
	// usual is how many times the longest known time of its kind an item may take
	// before it is reported.
	usual = 3
)

// patience is the age at which an item is reported: some times what its kind has
// taken so far, and at most half of its deadline.
func (w *Watch) patience(i *Item) time.Duration {
	p := max(leastPatience, usual*w.longest[i.kind])
	if i.Subsystem == "start" {
		p = max(p, startPatience)
	}
	if i.Limit > 0 {
		p = min(p, i.Limit/2)
	}
	return p
}
