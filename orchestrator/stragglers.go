package orchestrator

import (
	"errors"
	"math"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
)

// errStepClosed cancels the episodes that a step does not wait for.
var errStepClosed = errors.New("the step was closed: it had its quorum of episodes, and this one was past its " +
	"deadline (rollout.quorum, rollout.deadline_seconds)")

// stragglers closes a step when its quorum of episodes is in and the rest are past
// their deadline. An episode that has not started is not past it. A nil one never
// closes a step. It is safe for concurrent use.
type stragglers struct {
	quorum   int           // episodes that must be in
	deadline time.Duration // of an episode, from its start, retries included
	cancel   func()        // cancels the rest

	mu     sync.Mutex
	in     int // episodes that have ended and did not fail
	left   int // episodes that have not ended
	began  map[place]time.Time
	timer  *time.Timer
	closed bool
}

// place names an episode of a step.
type place struct{ group, episode int }

// newStragglers returns nil if the step waits for all of its episodes. done of the
// step's episodes were sampled before.
func newStragglers(c config.Rollout, episodes, done int, cancel func()) *stragglers {
	if c.Quorum >= 1 {
		return nil
	}
	return &stragglers{
		quorum: int(math.Ceil(c.Quorum * float64(episodes))), cancel: cancel, in: done, left: episodes - done,
		deadline: time.Duration(c.DeadlineSeconds * float64(time.Second)), began: map[place]time.Time{},
	}
}

// start notes that an episode has started. A retry has the deadline of the first try.
func (s *stragglers) start(e rollout.EpisodeSpec) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := place{e.Group, e.Episode}
	if _, again := s.began[at]; !again {
		s.began[at] = time.Now()
	}
	s.check()
}

// end notes that an episode has ended. It reports whether the episode was cancelled
// because the step is closed.
func (s *stragglers) end(t rollout.Trajectory) (cancelled bool) {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.began, place{t.Group, t.Episode})
	s.left--
	if !t.Failed() {
		s.in++
	}
	s.check()
	return s.closed && t.Failed()
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

// check closes the step, or waits for the last deadline. It is called with the lock.
func (s *stragglers) check() {
	if s.closed || s.left == 0 || s.in < s.quorum || len(s.began) < s.left {
		return
	}
	last := time.Duration(math.MinInt64) // until the last deadline
	for _, began := range s.began {
		last = max(last, time.Until(began.Add(s.deadline)))
	}
	if last <= 0 {
		s.closed = true
		s.cancel()
		return
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.timer = time.AfterFunc(last, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.check()
	})
}
