package admission

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// servers simulates places that need a time per token.
type servers struct {
	queue    *Queue
	perToken []time.Duration // 0: it never answers

	mu    sync.Mutex
	ended []int // attempts that ended at each place
	late  [][2]int
}

func newServers(limit int, perToken ...time.Duration) *servers {
	return &servers{queue: New(Config{Limits: slices.Repeat([]int{limit}, len(perToken)), Sessions: 8, Stickiness: 8}),
		perToken: perToken, ended: make([]int, len(perToken))}
}

// ask sends a request with an answer of so many tokens. It returns the place that
// answered.
func (s *servers) ask(ctx context.Context, r Request, tokens, most int) (int, error) {
	place, err := s.queue.Acquire(ctx, r)
	if err != nil {
		return -1, err
	}
	return s.run(ctx, r, place, tokens, most)
}

func (s *servers) run(ctx context.Context, r Request, place *Place, tokens, most int) (int, error) {
	h := Hedge[int]{
		Queue: s.queue, Request: r, Tokens: most,
		Attempt: func(ctx context.Context, p *Place, _ bool) (int, error) {
			begun, after := time.Now(), make(<-chan time.Time)
			if d := s.perToken[p.Index]; d > 0 {
				after = time.After(time.Duration(tokens) * d)
			}
			select {
			case <-after:
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
			s.mu.Lock()
			s.ended[p.Index]++
			s.mu.Unlock()
			p.Answered(tokens, time.Since(begun))
			return p.Index, nil
		},
		Late: func(from, to *Place, _ time.Duration) { s.late = append(s.late, [2]int{from.Index, to.Index}) },
	}
	got, from, err := h.Run(ctx, place)
	if err == nil && from.Index != got {
		return -1, errors.New("the answer is said to be of another place")
	}
	return got, err
}

// warm makes the paces of all places that answer known.
func (s *servers) warm(t *testing.T, tokens int) {
	t.Helper()
	for _, p := range s.queue.Places() {
		if s.perToken[p.Index] == 0 {
			continue
		}
		for range minAnswers {
			p.Answered(tokens, time.Duration(tokens)*s.perToken[p.Index])
		}
	}
}

func (s *servers) checkIdle(t *testing.T) {
	t.Helper()
	for _, p := range s.queue.Places() {
		if n, _ := p.Load(); n != 0 {
			t.Errorf("place %d still has %d requests", p.Index, n)
		}
	}
}

// A request at a place that does not answer is answered by another one, after twice the
// time that it needs for the longest answer.
func TestALateRequestIsAnsweredElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(4, 0, 100*time.Millisecond, 100*time.Millisecond)
		s.warm(t, 10)
		first := s.queue.Places()[0]
		s.queue.take(first, "episode")
		begun := time.Now()
		got, err := s.run(t.Context(), Request{Session: "episode"}, first, 10, 50)
		if err != nil || got == 0 {
			t.Errorf("place %d, %v", got, err)
		}
		if took := time.Since(begun); took != 2*50*100*time.Millisecond+time.Second {
			t.Errorf("it took %v", took)
		}
		if len(s.late) != 1 || s.late[0] != [2]int{0, got} {
			t.Errorf("late %v", s.late)
		}
		if next, err := s.ask(t.Context(), Request{Session: "episode"}, 1, 50); err != nil || next != got {
			t.Errorf("the session goes on at place %d, not %d (%v)", next, got, err)
		}
		s.checkIdle(t)
	})
}

// Answers are not selected for being short: the longest possible answer is never late at
// a place that is as fast as the others, whatever the answers before it were.
func TestALongAnswerIsNotLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(4, 100*time.Millisecond, 100*time.Millisecond)
		s.warm(t, 3)
		for range 10 {
			if _, err := s.ask(t.Context(), Request{}, 500, 500); err != nil {
				t.Error(err)
			}
		}
		if len(s.late) != 0 {
			t.Errorf("late %v", s.late)
		}
	})
}

// Exactly one answer counts, also if the first place answers after all, and the other
// attempt is cancelled.
func TestTheFirstAnswerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(1, 700*time.Millisecond, 100*time.Millisecond)
		s.warm(t, 10)
		first := s.queue.Places()[0]
		s.queue.take(first, "")
		got, err := s.run(t.Context(), Request{}, first, 31, 50) // 21.7 s, late at 10 s
		if err != nil || got != 1 || !slices.Equal(s.ended, []int{0, 1}) {
			t.Errorf("place %d, ended %v, %v", got, s.ended, err)
		}
		s.queue.take(first, "")
		got, err = s.run(t.Context(), Request{}, first, 15, 50) // 10.5 s against 10 + 1.5 s
		if err != nil || got != 0 || !slices.Equal(s.ended, []int{1, 1}) || len(s.late) != 2 {
			t.Errorf("place %d, ended %v, late %v, %v", got, s.ended, s.late, err)
		}
		s.checkIdle(t)
	})
}

// A late request waits for a free place behind those that wait already.
func TestALateRequestTakesNoPlaceFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(1, 0, 100*time.Millisecond)
		s.warm(t, 10)
		first, second := s.queue.Places()[0], s.queue.Places()[1]
		s.queue.take(first, "")
		s.queue.take(second, "")
		go func() { time.Sleep(time.Minute); second.Release() }()
		begun := time.Now()
		got, err := s.run(t.Context(), Request{}, first, 10, 10)
		if took := time.Since(begun); err != nil || got != 1 || took < time.Minute || took > 63*time.Second {
			t.Errorf("place %d after %v, %v", got, took, err)
		}
		s.checkIdle(t)
	})
}

// If both attempts fail, the error is the first one's. If one fails, the other counts.
func TestAFailedAttemptLeavesTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(1, 100*time.Millisecond, 100*time.Millisecond)
		s.warm(t, 10)
		first := s.queue.Places()[0]
		wrong := []error{errors.New("at the first place"), errors.New("at the second place")}
		for _, secondFails := range []bool{false, true} {
			s.queue.take(first, "")
			h := Hedge[string]{Queue: s.queue, Tokens: 10,
				Attempt: func(_ context.Context, p *Place, again bool) (string, error) {
					time.Sleep(10 * time.Second)
					if !again || secondFails {
						return "", wrong[p.Index]
					}
					return "second", nil
				}}
			got, _, err := h.Run(t.Context(), first)
			if secondFails && !errors.Is(err, wrong[0]) || !secondFails && (err != nil || got != "second") {
				t.Errorf("%q, %v", got, err)
			}
		}
		s.checkIdle(t)
	})
}

func TestAHedgeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(1, 0, 0)
		cause := errors.New("the step was cancelled")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, cause)
		defer cancel()
		if _, err := s.ask(ctx, Request{}, 1, 1); !errors.Is(err, cause) {
			t.Error(err)
		}
		s.checkIdle(t)
	})
}

// A slow place gets a share of the requests that fits its pace, and as many as the
// others when it is fast again.
func TestASlowPlaceGetsLessLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(64, 400*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond)
		shares := func() (ended []int) {
			clear(s.ended)
			for range 24 {
				go func() {
					for range 60 {
						if _, err := s.ask(t.Context(), Request{}, 5, 1000); err != nil {
							t.Error(err)
						}
					}
				}()
			}
			time.Sleep(15 * time.Second)
			s.mu.Lock()
			ended = slices.Clone(s.ended)
			s.mu.Unlock()
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			return ended
		}
		slow := shares()
		if float64(slow[0]) > 0.35*float64(slow[1]) || slow[0] == 0 || slow[2] < slow[1]*9/10 {
			t.Errorf("answers %v, want about a quarter from the slow place", slow)
		}
		s.perToken[0] = 100 * time.Millisecond
		equal := shares()
		if slices.Min(equal)*10 < slices.Max(equal)*9 {
			t.Errorf("answers %v when all are equally fast", equal)
		}
	})
}

// A session stays at its place while that is about as loaded as the others, and leaves
// a slow one earlier.
func TestASessionLeavesASlowPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers(64, time.Second, 100*time.Millisecond)
		places := s.queue.Places()
		s.queue.take(places[0], "episode")
		s.queue.release(places[0])
		for range 2 {
			s.queue.take(places[0], "")
		}
		if p := s.queue.pick(Request{Session: "episode"}); p != places[0] {
			t.Error("the session left a place with two requests more")
		}
		s.warm(t, 10)
		if got := places[0].Slowness(); got != 10 {
			t.Errorf("slowness %v", got)
		}
		if p := s.queue.pick(Request{Session: "episode"}); p != places[1] {
			t.Error("the session stays at a place that is ten times slower")
		}
		time.Sleep(paceLasts + time.Second)
		if got := places[0].Slowness(); got != 1 {
			t.Errorf("slowness %v long after the last answer: it is never tried again", got)
		}
	})
}
