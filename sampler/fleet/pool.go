package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A waiter is a request that waits for admission.
type waiter struct {
	session string
	tried   map[*replica]bool // where it was lost
	got     chan *replica     // receives once
}

// sessions remembers which replica holds a session's prefix: the recent ones
// and those before them, so that it stays bounded.
type sessions struct{ recent, older map[string]*replica }

const maxSessions = 8192

func (s *sessions) get(session string) *replica {
	if r := s.recent[session]; r != nil {
		return r
	}
	return s.older[session]
}

func (s *sessions) put(session string, r *replica) {
	if session == "" {
		return
	}
	if s.recent == nil || len(s.recent) >= maxSessions {
		s.recent, s.older = map[string]*replica{}, s.recent
	}
	s.recent[session] = r
}

// acquire admits a request to a replica until release. It waits in line while
// all are full, and up to the patience while none is up.
func (b *Backend) acquire(ctx context.Context, session string, tried map[*replica]bool) (*replica, error) {
	w := &waiter{session, tried, make(chan *replica, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, w)
	b.dispatch()
	b.mu.Unlock()
	patience := time.NewTimer(b.cfg.Patience)
	defer patience.Stop()
	for {
		select {
		case r := <-w.got:
			return r, nil
		case <-ctx.Done():
			b.unwait(w)
			return nil, context.Cause(ctx)
		case <-patience.C:
			left, err := b.hopeless()
			if err != nil {
				b.unwait(w)
				return nil, err
			}
			patience.Reset(left)
		}
	}
}

// unwait gives up waiting, or what was got in the meantime.
func (b *Backend) unwait(w *waiter) {
	b.mu.Lock()
	b.waiting = slices.DeleteFunc(b.waiting, func(x *waiter) bool { return x == w })
	b.mu.Unlock()
	select {
	case r := <-w.got:
		b.release(r)
	default:
	}
}

func (b *Backend) release(r *replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.inflight--
	b.dispatch()
	if r.state == asleep && r.inflight == 0 {
		b.announce()
	}
}

// dispatch admits who waits, in order. The mutex is held.
func (b *Backend) dispatch() {
	for len(b.waiting) > 0 {
		w := b.waiting[0]
		r := b.pick(w)
		if r == nil {
			return
		}
		b.waiting = b.waiting[1:]
		r.inflight++
		b.sessions.put(w.session, r)
		w.got <- r
	}
}

// stickiness is how many more requests in flight than elsewhere a prefix that
// need not be computed again is worth.
const stickiness = 8

// pick is the replica for a request, nil if all are full or down: its
// session's, unless that is much busier; else the one with the fewest in
// flight, rather one where the request was not lost before.
func (b *Backend) pick(w *waiter) *replica {
	var best *replica
	for _, r := range b.replicas {
		if r.state != up || r.inflight >= r.limit {
			continue
		}
		if best == nil || w.tried[best] && !w.tried[r] ||
			w.tried[best] == w.tried[r] && r.inflight < best.inflight {
			best = r
		}
	}
	own := b.sessions.get(w.session)
	if best == nil || own == nil || own.state != up || w.tried[own] ||
		own.inflight >= own.limit || own.inflight > best.inflight+stickiness {
		return best
	}
	return own
}

// hopeless is an error if no replica was up during the patience, else how long
// to wait before asking again.
func (b *Backend) hopeless() (time.Duration, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.none.IsZero() {
		return b.cfg.Patience, nil
	}
	if left := b.cfg.Patience - time.Since(b.none); left > 0 {
		return left, nil
	}
	return 0, b.allDown()
}

// allDown names the replicas with what is wrong with each. The mutex is held.
func (b *Backend) allDown() error {
	var why []string
	for _, r := range b.replicas {
		reason := r.why
		if r.state == asleep {
			reason = errAsleep
		}
		why = append(why, fmt.Sprintf("%s: %v", r.server.URL(), reason))
	}
	return fmt.Errorf("%w: no server answers:\n    %s\n  hint: look at the servers' own logs, start them again and continue the run",
		errAllDown, strings.Join(why, "\n    "))
}

var (
	errAllDown = errors.New("all replicas are down")
	errAsleep  = errors.New("it sleeps until Wake")
)

const (
	// queue is how many requests may wait at a server.
	queue = 8
	// fewest is the least limit.
	fewest = 1
)

// admit sets the replica's limit from what the server says of itself.
func (r *replica) admit(l Load) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	before := r.limit
	if l.Waiting > queue {
		r.limit = max(fewest, min(r.limit, r.inflight-l.Waiting+queue))
	} else {
		r.limit = min(r.limit+queue, b.cfg.MaxInFlight)
	}
	if r.limit != before {
		b.cfg.Log.Debug().Str("server", r.server.URL()).Int("limit", r.limit).Int("running", l.Running).Int("waiting", l.Waiting).Msg("admission")
	}
	b.dispatch()
}
