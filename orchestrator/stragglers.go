package orchestrator

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
)

// stragglers closes a step when its quorum of episodes is in and the rest are past
// their deadline. An episode that has not started is not past it.
//
// While the gate is closed, no episode can start, and an evaluation waits for those that
// run. Then those that run are cancelled if they are past their deadline and the others
// can still make the quorum. A nil one cancels nothing. It is safe for concurrent use.
type stragglers struct {
	quorum   int           // episodes that must be in
	deadline time.Duration // of an episode while it runs, retries included
	cancel   func()        // cancels the rest

	mu       sync.Mutex
	in       int // episodes that have ended and did not fail
	left     int // episodes that have not ended
	begun    map[place]*begun
	timer    *time.Timer
	isClosed bool // the gate
	closed   bool // the step
}

// place names an episode of a step.
type place struct{ group, episode int }

// A begun episode has started and has not ended.
type begun struct {
	state  int
	since  time.Time     // start of the try that runs
	used   time.Duration // by the tries before it
	cancel context.CancelCauseFunc
}

// States of a begun episode.
const (
	running  = iota
	returned // the try has failed; a retry or the end of the episode follows at once
	waiting  // a retry waits at the gate, and its time does not count
)

// newStragglers returns nil if the step waits for all of its episodes. done of the
// step's episodes were sampled before.
func newStragglers(c config.Rollout, episodes, done int, cancel func()) *stragglers {
	if c.Quorum >= 1 {
		return nil
	}
	quorum := math.Ceil(c.Quorum*float64(episodes) - 1e-9) // 0.55 of 100 is 55, not 55.00000000000001
	return &stragglers{
		quorum: int(quorum), cancel: cancel, in: done, left: episodes - done, begun: map[place]*begun{},
		deadline: time.Duration(c.DeadlineSeconds * float64(time.Second)),
	}
}

// wait notes that an episode or a retry waits at the gate.
func (s *stragglers) wait(e rollout.EpisodeSpec) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.begun[place{e.Group, e.Episode}]; b != nil {
		b.state = waiting
		s.check()
	}
}

// start notes that an episode or a retry has started. A retry has what is left of the
// deadline. The returned context ends if the step does not wait for the episode. The
// caller must call the returned function with what the try has given.
func (s *stragglers) start(ctx context.Context, e rollout.EpisodeSpec) (context.Context, func(rollout.Trajectory)) {
	if s == nil {
		return ctx, func(rollout.Trajectory) {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	at := place{e.Group, e.Episode}
	b := s.begun[at]
	if b == nil {
		b = &begun{}
		s.begun[at] = b
	}
	b.state, b.since, b.cancel = running, time.Now(), cancel
	s.check()
	return ctx, func(t rollout.Trajectory) {
		s.mu.Lock()
		defer s.mu.Unlock()
		cancel(nil)
		b.state, b.used = returned, b.used+time.Since(b.since)
		if !t.Failed() {
			delete(s.begun, at)
			s.left--
			s.in++
			s.check()
		}
	}
}

// end notes that there is no other try of an episode. It does nothing if one succeeded.
func (s *stragglers) end(t rollout.Trajectory) {
	if s == nil || !t.Failed() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.begun, place{t.Group, t.Episode})
	s.left--
	s.check()
}

// gate notes that the gate was closed or opened.
func (s *stragglers) gate(isClosed bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isClosed = isClosed
	s.check()
}

// stop ends the waiting for deadlines.
func (s *stragglers) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}

// check closes the step, cancels the episodes that an evaluation waits for, or waits for
// the last deadline. It is called with the lock.
func (s *stragglers) check() {
	if s.timer != nil {
		s.timer.Stop()
	}
	n := map[int]int{}                   // begun episodes by state
	last := time.Duration(math.MinInt64) // until the last deadline
	for _, b := range s.begun {
		n[b.state]++
		if b.state == running {
			last = max(last, s.deadline-b.used-time.Since(b.since))
		}
	}
	all := n[running] == s.left
	others := s.left - n[running] - n[returned] // that can still end well
	if s.closed || n[running] == 0 || !all && !s.isClosed || s.in+others < s.quorum {
		return
	}
	if last > 0 {
		s.timer = time.AfterFunc(last, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.check()
		})
		return
	}
	if all {
		s.closed = true
		s.cancel()
		return
	}
	for _, b := range s.begun {
		if b.state == running {
			b.cancel(rollout.ErrNotAwaited)
		}
	}
}
