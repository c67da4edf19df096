package admission

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

func take(t *testing.T, q *Queue, r Request) *Place {
	t.Helper()
	p, err := q.Acquire(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestASessionReturnsToItsPlace(t *testing.T) {
	q := New(Config{Limits: []int{1, 1, 1}})
	home := map[string]*Place{}
	for _, name := range []string{"a", "b", "c"} {
		home[name] = take(t, q, Request{Session: name})
	}
	for _, name := range []string{"a", "b", "c"} {
		home[name].Release()
	}
	for _, name := range []string{"b", "a", "c", "a"} {
		p := take(t, q, Request{Session: name})
		if p != home[name] {
			t.Errorf("%s is at %d, was at %d", name, p.Index, home[name].Index)
		}
		p.Release()
	}
	// A new session takes the place that has been idle for longest, b's, so
	// that b takes the next one, c's.
	if p := take(t, q, Request{Session: "d"}); p != home["b"] {
		t.Errorf("d is at %d", p.Index)
	}
	if p := take(t, q, Request{Session: "b"}); p != home["c"] {
		t.Errorf("b is at %d", p.Index)
	}
}

// A request without a session overwrites the prefix in the cache of its place.
func TestARequestWithoutSessionReplacesThePrefix(t *testing.T) {
	q := New(Config{Limits: []int{1, 1}})
	first, second := take(t, q, Request{Session: "a"}), take(t, q, Request{Session: "b"})
	first.Release()
	take(t, q, Request{}) // at a's place
	second.Release()
	first.Release()
	if p := take(t, q, Request{Session: "a"}); p != second {
		t.Errorf("a is at %d, which was used more recently", p.Index)
	}
}

func TestConcurrentRequestsOfASessionUseTwoPlaces(t *testing.T) {
	q := New(Config{Limits: []int{1, 1}})
	if p, other := take(t, q, Request{Session: "a"}), take(t, q, Request{Session: "a"}); p == other {
		t.Errorf("both at %d", p.Index)
	}
}

func TestWaitersAreServedInOrderAndCanLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Config{Limits: []int{1}})
		held := take(t, q, Request{Session: "a"})
		got := make(chan string, 2)
		for _, name := range []string{"b", "c"} {
			go func() {
				p := take(t, q, Request{Session: name})
				got <- name
				p.Release()
			}()
			synctest.Wait() // it waits
		}
		late, gone := errors.New("late"), errors.New("gone")
		failed := make(chan error, 1)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { _, err := q.Acquire(ctx, Request{}); failed <- err }()
		synctest.Wait()
		cancel(late)
		if err := <-failed; !errors.Is(err, late) {
			t.Error(err)
		}
		end := make(chan struct{})
		go func() { _, err := q.Acquire(t.Context(), Request{Gone: end, GoneErr: gone}); failed <- err }()
		synctest.Wait()
		close(end)
		if err := <-failed; !errors.Is(err, gone) {
			t.Error(err)
		}
		held.Release()
		if first, second := <-got, <-got; first != "b" || second != "c" {
			t.Errorf("served %s, %s", first, second)
		}
	})
}

func TestThePlaceWithThePrefixOrTheFewestRequestsIsPicked(t *testing.T) {
	q := New(Config{Limits: []int{99, 99, 99}, Sessions: 10, Stickiness: 8})
	home, middle, least := q.places[0], q.places[1], q.places[2]
	q.take(home, "s")
	q.take(home, "")
	q.take(middle, "")
	f := func(name string, r Request, want *Place) {
		t.Helper()
		if got := q.pick(r); got != want {
			t.Errorf("%s: %d, want %d", name, got.Index, want.Index)
		}
	}
	f("no session", Request{}, least)
	f("another session", Request{Session: "t"}, least)
	f("its session", Request{Session: "s"}, home)
	f("lost there", Request{Session: "s", Avoid: map[*Place]bool{home: true}}, least)
	f("lost at the least busy place", Request{Avoid: map[*Place]bool{least: true}}, middle)
	f("lost everywhere", Request{Avoid: map[*Place]bool{home: true, middle: true, least: true}}, least)
	for range 7 {
		q.take(home, "")
	}
	f("much busier", Request{Session: "s"}, least)
	home.Pause()
	home.inFlight = 0
	f("paused", Request{Session: "s"}, least)
	home.Resume()
	f("resumed", Request{Session: "s"}, home)
}

func TestSessionsAreForgotten(t *testing.T) {
	const remembered = 100
	q := New(Config{Limits: []int{1, 1}, Sessions: remembered})
	for i := range 10 * remembered {
		take(t, q, Request{Session: strconv.Itoa(i)}).Release()
	}
	if n := len(q.homes); n > 2*remembered || q.homes["0"] != nil || q.homes[strconv.Itoa(10*remembered-1)] == nil {
		t.Errorf("%d sessions are remembered", n)
	}
}

func TestPausedPlacesDrainAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Config{Limits: []int{2}})
		p := q.Places()[0]
		if err := p.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		take(t, q, Request{})
		p.Pause()
		admitted, drained := make(chan *Place, 1), make(chan error, 1)
		go func() { p, _ := q.Acquire(t.Context(), Request{}); admitted <- p }()
		go func() { drained <- p.Drain(t.Context()) }()
		synctest.Wait()
		if len(admitted)+len(drained) != 0 {
			t.Error("admitted or drained while a request is in flight")
		}
		p.Release()
		synctest.Wait()
		if err := <-drained; err != nil || len(admitted) != 0 {
			t.Error("admitted while paused, or", err)
		}
		p.Resume()
		(<-admitted).Release()
		take(t, q, Request{})
		late := errors.New("late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, late)
		defer cancel()
		if err := p.Drain(ctx); !errors.Is(err, late) {
			t.Error(err)
		}
	})
}

func TestLimitsCanChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Config{Limits: []int{1}})
		p := take(t, q, Request{})
		admitted := make(chan *Place, 2)
		for range 2 {
			go func() { p, _ := q.Acquire(t.Context(), Request{}); admitted <- p }()
		}
		p.SetLimit(2)
		synctest.Wait()
		if len(admitted) != 1 {
			t.Errorf("%d admitted", len(admitted))
		}
		p.SetLimit(1)
		p.Release()
		synctest.Wait()
		if n, limit := p.Load(); len(admitted) != 1 || n != 1 || limit != 1 {
			t.Errorf("%d admitted, %d in flight of %d", len(admitted), n, limit)
		}
		p.Release()
		synctest.Wait()
		if len(admitted) != 2 {
			t.Errorf("%d admitted", len(admitted))
		}
	})
}

// Alternating requests of two classes are grouped: each class is in flight once.
// The order within a class is kept.
func TestClassesAlternateInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		switches := 0
		q := New(Config{Limits: []int{2}, OnSwitch: func() { switches++ }})
		first := take(t, q, Request{Class: "a"})
		order := make(chan string, 5)
		for _, name := range []string{"b1", "a1", "b2", "a2", "b3"} {
			go func() {
				p := take(t, q, Request{Class: name[:1]})
				order <- name
				time.Sleep(time.Second)
				p.Release()
			}()
			synctest.Wait()
		}
		first.Release()
		var got []string
		for range 5 {
			got = append(got, <-order)
		}
		slices.Sort(got[:2]) // they begin at the same time
		slices.Sort(got[3:])
		if want := []string{"b1", "b2", "b3", "a1", "a2"}; switches != 2 || !slices.Equal(got, want) {
			t.Errorf("%d switches, %v", switches, got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if q.Class() != "a" {
			t.Error(q.Class())
		}
	})
}

func TestTheClassOfAWaiterThatLeavesIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Config{Limits: []int{1}})
		first := take(t, q, Request{Class: "a"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.Acquire(ctx, Request{Class: "b"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		first.Release()
		take(t, q, Request{Class: "c"}).Release()
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		for range 2 {
			if !g.Enter() {
				t.Fatal("an open gate must admit requests")
			}
		}
		if n := g.InFlight(); n != 2 {
			t.Fatalf("%d requests in flight, want 2", n)
		}
		late := errors.New("late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, late)
		defer cancel()
		if !g.Close() || g.Close() || g.Enter() || !g.Closed() || !errors.Is(g.Drain(ctx), late) {
			t.Error("a closed gate must refuse requests and wait for those in flight")
		}
		g.Leave()
		g.Leave()
		if err := g.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		idle := NewGate()
		idle.Close()
		<-idle.Drained()
	})
}

// A request without a place of its own takes the free place with the largest gain.
func TestTheLargestGainDecides(t *testing.T) {
	q := New(Config{Limits: []int{1, 1, 1}})
	home := take(t, q, Request{Session: "a"})
	home.Release()
	gains := []int{-5, 3, 0}
	r := Request{Session: "b", Gain: func(p *Place) int { return gains[p.Index] }}
	for _, want := range []int{1, 2, 0} {
		if p := take(t, q, r); p.Index != want {
			t.Errorf("place %d, want %d", p.Index, want)
		}
	}
	home.Release()
	r.Session = "a"
	if p := take(t, q, r); p != home {
		t.Errorf("the session is at %d, was at %d", p.Index, home.Index)
	}
}
