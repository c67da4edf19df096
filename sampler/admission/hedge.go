package admission

import (
	"context"
	"errors"
	"time"
)

const (
	// lateFactor is how many times longer than at the other places a request may take
	// for its whole length before it is late.
	lateFactor = 2
	// shortestLate is the shortest time after which a request is late.
	shortestLate = time.Second
	// firstLook is when to look for the first time whether a request is late, and how
	// often while the other places' pace is unknown or they are full.
	firstLook = time.Second
)

// A Hedge is a request that is sent to a second place too when it is late at the first
// one. One answer counts; the other attempt is cancelled.
//
// A request is late after twice the time that the other places need for as many tokens
// as it may have at most, not for as many as an answer usually has. A long answer is
// thus never late because of its length, and answers are not selected for being short.
// Both attempts have the same seed.
type Hedge[T any] struct {
	Queue   *Queue
	Request Request
	Tokens  int // of the longest answer
	// Attempt sends the request to a place. again is true for the second place. It must
	// return soon after ctx has ended.
	Attempt func(ctx context.Context, p *Place, again bool) (T, error)
	// Late, if not nil, is called when the request is sent to a second place.
	Late func(from, to *Place, after time.Duration)
	// Rescued, if not nil, is called when the second place's answer is the one that counts.
	Rescued func()
}

// An attempt's result.
type outcome[T any] struct {
	value T
	err   error
	place *Place
}

// errOutrun cancels the attempt that is not needed any more.
var errOutrun = errors.New("another replica has answered")

// Run sends the request to place, which Acquire returned, and releases it. It returns
// the first answer and its place. If both attempts fail, it returns the first one's
// error. No attempt is running when it returns.
func (h Hedge[T]) Run(ctx context.Context, place *Place) (T, *Place, error) {
	if len(h.Queue.places) == 1 {
		defer place.Release()
		value, err := h.Attempt(ctx, place, false)
		return value, place, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make(chan outcome[T], 2)
	begin := func(p *Place, again bool) {
		go func() {
			value, err := h.Attempt(ctx, p, again)
			p.Release()
			results <- outcome[T]{value, err, p}
		}()
	}
	begun, running := time.Now(), 1
	begin(place, false)
	look := time.NewTimer(firstLook)
	defer look.Stop()
	var failed *outcome[T]
	for {
		select {
		case o := <-results:
			running--
			if o.err != nil && failed == nil {
				failed = &o
			}
			if o.err != nil && running > 0 {
				continue // the other attempt may still succeed
			}
			cancel(errOutrun)
			if running > 0 {
				<-results
			}
			switch {
			case o.err != nil:
				o = *failed
			case o.place != place && h.Rescued != nil:
				h.Rescued()
			}
			return o.value, o.place, o.err
		case <-look.C:
			second, next := h.second(place, time.Since(begun))
			if second != nil {
				running++
				begin(second, true)
				break // at most two attempts
			}
			look.Reset(next)
		}
	}
}

// second returns the place for a second attempt if the request is late, or when to look
// again. A late request counts as slow for its place.
func (h Hedge[T]) second(first *Place, elapsed time.Duration) (second *Place, next time.Duration) {
	late := h.Queue.lateAfter(first, h.Tokens)
	switch {
	case late == 0:
		return nil, firstLook
	case elapsed < late:
		return nil, late - elapsed
	}
	if second = h.Queue.elsewhere(first, h.Request); second == nil {
		return nil, firstLook
	}
	first.Answered(h.Tokens, elapsed)
	if h.Late != nil {
		h.Late(first, second, elapsed)
	}
	return second, 0
}

// lateAfter returns how long a request of so many tokens may take at p, or 0 if the
// other places' pace is unknown.
func (q *Queue) lateAfter(p *Place, tokens int) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	perToken := q.othersPace(p)
	if perToken == 0 {
		return 0
	}
	return max(shortestLate, time.Duration(lateFactor*float64(tokens)*perToken*float64(time.Second)))
}

// elsewhere takes a place other than p if one is free and no request waits. Else it
// returns nil.
func (q *Queue) elsewhere(p *Place, r Request) *Place {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 || r.Class != q.class {
		return nil
	}
	var best *Place
	for _, o := range q.places {
		if o != p && o.free() && !r.Avoid[o] && (best == nil || o.better(best, r)) {
			best = o
		}
	}
	if best != nil {
		q.take(best, r.Session)
	}
	return best
}
