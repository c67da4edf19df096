package llamacpp

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func take(t *testing.T, s *slots, session string) int {
	t.Helper()
	i, err := s.acquire(t.Context(), session, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestSessionGetsItsSlotBack(t *testing.T) {
	s := newSlots(3)
	own := map[string]int{}
	for _, name := range []string{"a", "b", "c"} {
		own[name] = take(t, s, name)
	}
	for _, i := range own {
		s.release(i)
	}
	for _, name := range []string{"b", "a", "c", "a"} {
		i := take(t, s, name)
		if i != own[name] {
			t.Errorf("%s is on %d, was on %d", name, i, own[name])
		}
		s.release(i)
	}
	// A new session takes the slot that has been idle for longest: b's.
	if i := take(t, s, "d"); i != own["b"] {
		t.Errorf("d is on %d", i)
	}
}

func TestSameSessionTwiceAtOnce(t *testing.T) {
	s := newSlots(2)
	if i, j := take(t, s, "a"), take(t, s, "a"); i == j {
		t.Errorf("both on %d", i)
	}
}

func TestWaitingForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		held := take(t, s, "a")
		got := make(chan string, 2)
		for _, name := range []string{"b", "c"} {
			go func() {
				take(t, s, name)
				got <- name
				s.release(0)
			}()
			synctest.Wait() // in line
		}
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		failed := make(chan error, 2)
		go func() { _, err := s.acquire(ctx, "d", nil); failed <- err }()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		go func() { _, err := s.acquire(t.Context(), "e", gone); failed <- err }()
		synctest.Wait()
		close(gone)
		if err := <-failed; !errors.Is(err, errLost) {
			t.Error(err)
		}
		s.release(held)
		if first, second := <-got, <-got; first != "b" || second != "c" {
			t.Errorf("served %s, %s", first, second)
		}
	})
}

// However sessions come and go, a slot is leased to one request at a time and
// none is lost.
func TestSlotsAreNeverSharedOrLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSlots(3)
		held := map[int]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(held) < 3 && rapid.Bool().Draw(t, "acquire") {
				i, err := s.acquire(context.Background(), rapid.StringN(0, 1, 1).Draw(t, "session"), nil)
				if err != nil || held[i] {
					t.Fatalf("slot %d, %v; held %v", i, err, held)
				}
				held[i] = true
				continue
			}
			for i := range held {
				s.release(i)
				delete(held, i)
				break
			}
		}
	})
}
