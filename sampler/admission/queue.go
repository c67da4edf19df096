// Package admission decides when and where a request is sent. Start with
// [Queue].
//
// A [Queue] admits requests to places in the order of their arrival. A [Place] is
// a server or a slot of a server and works on a limited number of requests at a
// time. A place can be paused and drained. A place that answers more slowly than the
// others gets fewer requests, and a [Hedge] sends a request that is late there to
// another one too. A [Gate] counts the requests of one policy, so that the policy can
// be retired after its last request.
package admission

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Config describes the places of a queue.
type Config struct {
	Limits   []int // limit of requests in flight for each place
	Sessions int   // recent sessions that a place remembers; 0: 1
	// Stickiness applies to the place that served a session last. It may have this
	// many more requests in flight than the best place and still gets the
	// session's next request. A request in flight at a slow place counts several times.
	Stickiness int
	// OnSwitch, if not nil, is called when the class of the admitted requests
	// changes. It must not call the queue.
	OnSwitch func()
}

// A Request asks for a place. The zero value accepts any place.
type Request struct {
	// Session identifies requests that share a prefix. They go to the place that
	// served the session last, if it is free and remembers the session.
	Session string
	// Class identifies requests that may be in flight together. Requests of
	// different classes are never in flight at the same time.
	Class string
	// Gain, if not nil, says what a free place would save for this request. Of the
	// free places with the smallest load, the one with the largest gain is chosen. The queue is locked during the call.
	Gain func(*Place) int
	// Avoid has the places where the request was lost. They are chosen last.
	Avoid map[*Place]bool
	// Gone, if not nil, makes Acquire return GoneErr when it is closed.
	Gone    <-chan struct{}
	GoneErr error
}

// A Queue admits requests to places in the order of their arrival. When the first
// waiting request has another class than the requests in flight, the queue waits
// for the end of those. Then all waiting requests of the new class move to the
// front. A Queue is safe for concurrent use.
type Queue struct {
	cfg    Config
	places []*Place

	mu       sync.Mutex
	waiting  []*waiter
	homes    map[string]*Place // the place that served each remembered session last
	class    string
	inFlight int
	clock    int64
}

type waiter struct {
	Request
	got chan *Place // receives once
}

// New returns a queue. No place is paused.
func New(cfg Config) *Queue {
	q := &Queue{cfg: cfg, homes: map[string]*Place{}}
	for i, limit := range cfg.Limits {
		p := &Place{Index: i, queue: q, limit: limit, idle: make(chan struct{})}
		close(p.idle)
		p.sessions, _ = simplelru.NewLRU(max(cfg.Sessions, 1), func(session string, _ struct{}) { // the size is positive
			if q.homes[session] == p {
				delete(q.homes, session)
			}
		})
		q.places = append(q.places, p)
	}
	return q
}

// Places returns the queue's places in the order of Config.Limits.
func (q *Queue) Places() []*Place { return q.places }

// Class returns the class of the last admitted request.
func (q *Queue) Class() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.class
}

// Acquire waits for a place, which the caller must release. It returns the cause
// of ctx if ctx ends, and r.GoneErr if r.Gone is closed.
func (q *Queue) Acquire(ctx context.Context, r Request) (*Place, error) {
	w := &waiter{r, make(chan *Place, 1)}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.dispatch()
	q.mu.Unlock()
	select { // prefer a free place to a context that has ended
	case p := <-w.got:
		return p, nil
	default:
	}
	select {
	case p := <-w.got:
		return p, nil
	case <-r.Gone:
		q.leave(w)
		return nil, r.GoneErr
	case <-ctx.Done():
		q.leave(w)
		return nil, context.Cause(ctx)
	}
}

// leave removes a waiter from the queue, or releases a place that it was assigned
// in the meantime.
func (q *Queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else {
		q.release(<-w.got)
	}
	q.dispatch()
}

// dispatch admits the first waiting requests while places are free. The mutex is
// held.
func (q *Queue) dispatch() {
	for len(q.waiting) > 0 {
		q.switchClass()
		w := q.waiting[0]
		if w.Class != q.class {
			return
		}
		p := q.pick(w.Request)
		if p == nil {
			return
		}
		q.waiting = q.waiting[1:]
		q.take(p, w.Session)
		w.got <- p
	}
}

// switchClass changes the class to that of the first waiting request if no
// request is in flight.
func (q *Queue) switchClass() {
	next := q.waiting[0].Class
	if next == q.class || q.inFlight > 0 {
		return
	}
	if q.class != "" && q.cfg.OnSwitch != nil {
		q.cfg.OnSwitch()
	}
	q.class = next
	rank := func(w *waiter) int {
		if w.Class == next {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(q.waiting, func(a, b *waiter) int { return rank(a) - rank(b) })
}

// pick returns the place for a request, or nil if none is free.
func (q *Queue) pick(r Request) *Place {
	var best *Place
	for _, p := range q.places {
		if p.free() && (best == nil || p.better(best, r)) {
			best = p
		}
	}
	home := q.homes[r.Session]
	if best == nil || home == nil || !home.free() || r.Avoid[home] || home.load() > best.load()+float64(q.cfg.Stickiness) {
		return best
	}
	return home
}

// take adds a request to p and makes p the place of its session.
func (q *Queue) take(p *Place, session string) {
	if p.inFlight == 0 {
		p.idle = make(chan struct{})
	}
	p.inFlight++
	q.inFlight++
	if home := q.homes[session]; home != nil && home != p {
		home.sessions.Remove(session)
	}
	if session != "" {
		q.homes[session] = p
	}
	p.sessions.Add(session, struct{}{})
}

// release removes a request from p. The mutex is held.
func (q *Queue) release(p *Place) {
	q.clock++
	p.lastUsed = q.clock
	p.inFlight--
	q.inFlight--
	if p.inFlight == 0 {
		close(p.idle)
	}
}
