package admission

import (
	"context"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A Place is a server or a slot of a server. It is safe for concurrent use.
type Place struct {
	Index int // in Queue.Places

	queue    *Queue // its mutex guards the fields below
	limit    int
	inFlight int
	paused   bool
	lastUsed int64 // the queue's clock at the last release; 0: never
	sessions *simplelru.LRU[string, struct{}]
	pace     pace
	idle     chan struct{} // closed while no request is in flight
}

// free says whether the place can admit a request. The mutex is held.
func (p *Place) free() bool { return !p.paused && p.inFlight < p.limit }

// better says whether a request should go to p and not to q. It compares, in this
// order: whether the request was lost there, the load, the gain, and the time since the
// last request.
func (p *Place) better(q *Place, r Request) bool {
	switch {
	case r.Avoid[p] != r.Avoid[q]:
		return r.Avoid[q]
	}
	if a, b := p.load(), q.load(); a != b {
		return a < b
	}
	if r.Gain != nil {
		if a, b := r.Gain(p), r.Gain(q); a != b {
			return a > b
		}
	}
	return p.inFlight == 0 && p.lastUsed < q.lastUsed
}

// Release ends a request that Acquire admitted.
func (p *Place) Release() {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.queue.release(p)
	p.queue.dispatch()
}

// Load returns the requests in flight and the limit.
func (p *Place) Load() (inFlight, limit int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	return p.inFlight, p.limit
}

// SetLimit changes how many requests may be in flight. A lower limit does not
// cancel requests.
func (p *Place) SetLimit(limit int) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.limit = limit
	p.queue.dispatch()
}

// Pause admits no request until Resume. Requests in flight continue.
func (p *Place) Pause() { p.setPaused(true) }

// Resume admits requests again.
func (p *Place) Resume() { p.setPaused(false) }

func (p *Place) setPaused(paused bool) {
	p.queue.mu.Lock()
	defer p.queue.mu.Unlock()
	p.paused = paused
	p.queue.dispatch()
}

// Drain waits until no request is in flight at the place. Pause it first.
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
