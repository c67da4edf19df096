package admission

import (
	"context"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A Place is a server or a slot of a server. Its methods may be called
// concurrently.
type Place struct {
	Index int // in Queue.Places

	queue    *Queue // its mutex guards the fields below
	limit    int
	inFlight int
	paused   bool
	used     int64 // the queue's clock at the last release; 0: never
	sessions *simplelru.LRU[string, struct{}]
	idle     chan struct{} // closed while nothing is in flight
}

// free says whether a request can be admitted. The mutex is held.
func (p *Place) free() bool { return !p.paused && p.inFlight < p.limit }

// better says whether a request should rather go to p than to q: to a place
// where it was not lost, to the one with fewer requests in flight, to the one
// that was idle for longer.
func (p *Place) better(q *Place, avoid map[*Place]bool) bool {
	switch {
	case avoid[p] != avoid[q]:
		return avoid[q]
	case p.inFlight != q.inFlight:
		return p.inFlight < q.inFlight
	}
	return p.inFlight == 0 && p.used < q.used
}

// Release gives the place back after Acquire.
func (p *Place) Release() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.queue.release(p)
	p.queue.dispatch()
}

// Load is how many requests are in flight, and the limit.
func (p *Place) Load() (inFlight, limit int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	return p.inFlight, p.limit
}

// SetLimit changes how many requests may be in flight. Those above a lower
// limit are not ended.
func (p *Place) SetLimit(limit int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.limit = limit
	p.queue.dispatch()
}

// Pause admits no request until Resume. Those in flight go on.
func (p *Place) Pause() { p.setPaused(true) }

// Resume admits requests again.
func (p *Place) Resume() { p.setPaused(false) }

func (p *Place) setPaused(paused bool) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.paused = paused
	p.queue.dispatch()
}

// Drain waits until nothing is in flight at the place. Pause it first.
func (p *Place) Drain(ctx context.Context) error {
	p.queue.mu.Lock()
	idle := p.idle
	p.queue.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
