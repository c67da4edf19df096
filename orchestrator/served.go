package orchestrator

import (
	"context"
	"sync"
	"time"

	"github.com/empo2/empo2/sampler"
)

// servedVersion is the newest committed version. Turns are sampled from it. It is safe
// for concurrent use.
type servedVersion struct {
	mu  sync.Mutex
	now sampler.Policy
}

func (s *servedVersion) get() sampler.Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}

func (s *servedVersion) set(p sampler.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = p
}

// A turnstile lets episodes begin, until it is closed. The zero value is open; a nil
// one never closes. It is safe for concurrent use.
type turnstile struct {
	mu      sync.Mutex
	inside  int
	closed  bool
	changed chan struct{} // closed with the next change; nil: nobody waits
	told    func(isClosed bool)
}

// watch calls f when the turnstile is closed or opened, and now if it is closed, until the
// returned function is called. f must not use the turnstile. There is one watcher at a time.
func (t *turnstile) watch(f func(isClosed bool)) (end func()) {
	if t == nil {
		return func() {}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = f
	if t.closed {
		f(true)
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.told = nil
	}
}

// set is called with the lock.
func (t *turnstile) set(isClosed bool) {
	t.closed = isClosed
	if t.told != nil {
		t.told(isClosed)
	}
}

// enter waits until the turnstile is open. The caller must call leave, unless enter
// returns an error.
func (t *turnstile) enter(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.await(ctx, func() bool {
		if !t.closed {
			t.inside++
		}
		return !t.closed
	})
}

func (t *turnstile) leave() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inside--
	t.announce()
}

// close lets nobody in and waits until all have left. If ctx ends first, the turnstile
// is open again.
func (t *turnstile) close(ctx context.Context) error {
	t.mu.Lock()
	t.set(true)
	t.mu.Unlock()
	err := t.await(ctx, func() bool { return t.inside == 0 })
	if err != nil {
		t.open()
	}
	return err
}

func (t *turnstile) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(false)
	t.announce()
}

// await waits until a condition holds, which it tests with the lock.
func (t *turnstile) await(ctx context.Context, holds func() bool) error {
	for {
		t.mu.Lock()
		if holds() {
			t.mu.Unlock()
			return nil
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// announce is called with the lock.
func (t *turnstile) announce() {
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// A busyClock adds up the time in which one side of a run works. The zero value is
// ready. It is safe for concurrent use.
type busyClock struct {
	mu      sync.Mutex
	working bool
	held    bool // the time does not count
	since   time.Time
	sum     time.Duration
	lap     time.Time // when take was called last
}

// set says whether the side works from now on.
func (c *busyClock) set(working bool) { c.change(func() { c.working = working }) }

// hold says whether the time does not count from now on.
func (c *busyClock) hold(held bool) { c.change(func() { c.held = held }) }

func (c *busyClock) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.working && !c.held {
		c.sum += now.Sub(c.since)
	}
	c.since = now
	f()
}

// take returns the seconds of work since it was called last.
func (c *busyClock) take() float64 {
	var sum time.Duration
	c.change(func() { sum, c.sum, c.lap = c.sum, 0, c.since })
	return sum.Seconds()
}

// taken returns when take was called last.
func (c *busyClock) taken() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lap
}
