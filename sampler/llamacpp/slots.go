package llamacpp

import (
	"context"
	"slices"
	"sync"
)

// slots leases the server's slots, each of which keeps the keys and values of
// the last conversation that it served. A session gets its own slot back as
// long as no other needed it; else the slot that has been idle for longest.
// Who finds no free slot waits in line, so that the server never chooses.
type slots struct {
	mu      sync.Mutex
	table   []slot
	clock   int64
	waiting []*waiter
}

type slot struct {
	session string
	busy    bool
	used    int64 // clock at the last release; 0: never
}

type waiter struct {
	session string
	got     chan int // receives once
}

func newSlots(n int) *slots { return &slots{table: make([]slot, n)} }

// acquire leases a slot until release. Closing gone ends the wait with
// [errLost].
func (s *slots) acquire(ctx context.Context, session string, gone <-chan struct{}) (int, error) {
	s.mu.Lock()
	if i := s.free(session); i >= 0 {
		s.table[i].busy, s.table[i].session = true, session
		s.mu.Unlock()
		return i, nil
	}
	w := &waiter{session, make(chan int, 1)}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case i := <-w.got:
		return i, nil
	case <-gone:
		s.leave(w)
		return 0, errLost
	case <-ctx.Done():
		s.leave(w)
		return 0, context.Cause(ctx)
	}
}

// leave gives up waiting, or what was got in the meantime.
func (s *slots) leave(w *waiter) {
	s.mu.Lock()
	s.waiting = slices.DeleteFunc(s.waiting, func(x *waiter) bool { return x == w })
	s.mu.Unlock()
	select {
	case i := <-w.got:
		s.release(i)
	default:
	}
}

// free is the best free slot for a session, -1 if all are busy.
func (s *slots) free(session string) int {
	best := -1
	for i, x := range s.table {
		switch {
		case x.busy:
		case session != "" && x.session == session:
			return i
		case best < 0 || x.used < s.table[best].used:
			best = i
		}
	}
	return best
}

// release returns a slot, to the first in line if there is one.
func (s *slots) release(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	s.table[i].busy, s.table[i].used = false, s.clock
	if len(s.waiting) == 0 {
		return
	}
	w := s.waiting[0]
	s.waiting = s.waiting[1:]
	s.table[i].busy, s.table[i].session = true, w.session
	w.got <- i
}
