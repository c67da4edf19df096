// Package admission decides when and where a request is sent.
//
// A [Queue] admits requests to places: servers, or slots of a server, each of
// which works on a limited number of requests at a time. Requests are admitted
// in the order in which they arrived. A [Gate] counts the requests of one
// policy, so that the policy can be retired after its last request.
package admission

import (
	"context"
	"slices"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Config describes the places of a queue.
type Config struct {
	Limits   []int // requests in flight at each place; the number of places is its length
	Sessions int   // recent sessions that a place remembers; 0: 1
	// Stickiness is how many more requests than the best place the place of
	// a session may have in flight and still get the session's next request.
	Stickiness int
	// OnSwitch, if not nil, is called when requests of another class begin. It
	// must not call the queue.
	OnSwitch func()
}

// A Request asks for a place. The zero value accepts any place.
type Request struct {
	// Session names requests that share a prefix. They go to the place that
	// served the session last, if that place is free and still remembers it.
	Session string
	// Class names requests that can be in flight together. Requests of two
	// classes never are.
	Class string
	// Avoid names places where the request was lost. They are the last choice.
	Avoid map[*Place]bool
	// Gone, if not nil, ends the wait with GoneErr when it is closed.
	Gone    <-chan struct{}
	GoneErr error
}

// A Queue admits requests to places, first come, first served. When no request
// of the current class is in flight and the first waiting request is of
// another class, all waiting requests of that class move to the front.
// A Queue is safe for concurrent use.
type Queue struct {
	cfg    Config
	places []*Place

	mu       sync.Mutex
	waiting  []*waiter
	homes    map[string]*Place // the place that each remembered session used last
	class    string
	inFlight int
	clock    int64
}

type waiter struct {
	Request
	got chan *Place // receives once
}

// New makes a queue whose places are all open.
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

// Places are the queue's places in the order of Config.Limits.
func (q *Queue) Places() []*Place { return q.places }

// Class is the class of the requests that were admitted last.
func (q *Queue) Class() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.class
}

// Acquire waits for a place, which the caller must release. The wait ends with
// the cause of ctx or with r.GoneErr.
func (q *Queue) Acquire(ctx context.Context, r Request) (*Place, error) {
	w := &waiter{r, make(chan *Place, 1)}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.dispatch()
	q.mu.Unlock()
	select { // a free place is better than a deadline
	case p := <-w.got:
		return p, nil
	default:
	}
	select {
	case p := <-w.got:
		return p, nil
	case <-r.Gone:
		q.giveUp(w)
		return nil, r.GoneErr
	case <-ctx.Done():
		q.giveUp(w)
		return nil, context.Cause(ctx)
	}
}

// giveUp leaves the queue, or releases a place that was assigned meanwhile.
func (q *Queue) giveUp(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, w); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	} else {
		q.release(<-w.got)
	}
	q.dispatch()
}

// dispatch admits the first waiting requests while there are places. The mutex
// is held.
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

// switchClass begins the class of the first waiting request if nothing is in
// flight.
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

// pick is the place for a request, nil if none is free.
func (q *Queue) pick(r Request) *Place {
	var best *Place
	for _, p := range q.places {
		if p.free() && (best == nil || p.better(best, r.Avoid)) {
			best = p
		}
	}
	own := q.homes[r.Session]
	if best == nil || own == nil || !own.free() || r.Avoid[own] || own.inFlight > best.inFlight+q.cfg.Stickiness {
		return best
	}
	return own
}

// take counts a request in and makes p the place of its session.
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

// release counts a request out. The mutex is held.
func (q *Queue) release(p *Place) {
	q.clock++
	p.used = q.clock
	p.inFlight--
	q.inFlight--
	if p.inFlight == 0 {
		close(p.idle)
	}
}
