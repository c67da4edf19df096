package admission

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A model tracks which requests the test has waiting and admitted.
type model struct {
	*rapid.T
	q       *Queue
	held    []*Place
	waiting []*waiter
	paused  map[*Place]bool
}

func (m *model) acquire() {
	session := strconv.Itoa(rapid.IntRange(0, 3).Draw(m.T, "session"))
	w := &waiter{Request{Session: session}, make(chan *Place, 1)}
	m.waiting = append(m.waiting, w)
	m.q.waiting = append(m.q.waiting, w)
	m.q.dispatch()
}

func (m *model) release() {
	if len(m.held) > 0 {
		m.held[0].Release()
		m.held = m.held[1:]
	}
}

func (m *model) pause() {
	p := rapid.SampledFrom(m.q.places).Draw(m.T, "place")
	m.paused[p] = rapid.Bool().Draw(m.T, "paused")
	p.setPaused(m.paused[p])
}

// admitted moves waiters that were admitted from waiting to held.
func (m *model) admitted() {
	for len(m.waiting) > 0 {
		select {
		case p := <-m.waiting[0].got:
			m.held, m.waiting = append(m.held, p), m.waiting[1:]
		default:
			return
		}
	}
}

func (m *model) check() {
	counts := map[*Place]int{}
	for _, p := range m.held {
		counts[p]++
	}
	for _, p := range m.q.places {
		n, limit := p.Load()
		if n != counts[p] || n > limit {
			m.Fatalf("%d in flight of %d, counted %d", n, limit, counts[p])
		}
		if !m.paused[p] && n < limit && len(m.waiting) > 0 {
			m.Fatalf("%d requests wait although a place is free", len(m.waiting))
		}
	}
}

// For any sequence of requests, no place exceeds its limit, no place is lost, and
// waiting requests are admitted in order.
func TestLimitsAreNeverExceeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := rapid.SliceOfN(rapid.IntRange(1, 4), 3, 3).Draw(t, "limits")
		m := &model{T: t, q: New(Config{Limits: limits, Sessions: 2, Stickiness: 1}), paused: map[*Place]bool{}}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			rapid.SampledFrom([]func(){m.acquire, m.acquire, m.release, m.pause}).Draw(t, "action")()
			m.admitted()
			m.check()
		}
	})
}

// One class is in flight at a time, within the limit. Every request whose
// context does not end is admitted.
func TestClassesTakeTurns(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			limit := rapid.IntRange(1, 4).Draw(r, "limit")
			q := New(Config{Limits: []int{limit}})
			var mu sync.Mutex
			inFlight, served, expected := map[string]int{}, 0, 0
			change := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
			for range rapid.IntRange(1, 40).Draw(r, "requests") {
				class := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "class")
				timeout := time.Duration(rapid.IntRange(1, 1000).Draw(r, "timeout")) * time.Second
				change(func() { expected++ })
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					p, err := q.Acquire(ctx, Request{Class: class})
					if err != nil {
						change(func() { expected-- })
						return
					}
					change(func() {
						inFlight[class]++
						for other, n := range inFlight {
							if n > 0 && (other != class || n > limit) {
								t.Errorf("%d of %s beside %s, limit %d", n, other, class, limit)
							}
						}
					})
					time.Sleep(time.Second)
					change(func() { inFlight[class]--; served++ })
					p.Release()
				}()
				if rapid.Bool().Draw(r, "pause") {
					time.Sleep(time.Duration(rapid.IntRange(0, 1500).Draw(r, "ms")) * time.Millisecond)
				}
				synctest.Wait()
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if served != expected || len(q.waiting) != 0 || q.inFlight != 0 {
				t.Errorf("%d of %d served, %d wait, %d in flight", served, expected, len(q.waiting), q.inFlight)
			}
		})
	})
}
