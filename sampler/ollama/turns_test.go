package ollama

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Requests of two models that come in turns cost one reload, not one each, and
// the order within a model stays.
func TestModelsTakeTurnsInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		swaps := 0
		turns := newTurns(2, func() { swaps++ })
		var mu sync.Mutex
		var order []string
		if err := turns.acquire(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"b1", "a1", "b2", "a2", "b3"} {
			go func() {
				if err := turns.acquire(t.Context(), name[:1]); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Second)
				turns.release()
			}()
			synctest.Wait()
		}
		turns.release()
		time.Sleep(time.Minute)
		synctest.Wait()
		if swaps != 2 || len(order) != 5 {
			t.Errorf("%d swaps, %v", swaps, order)
		}
		if diff := cmp.Diff([]string{"b", "b", "b", "a", "a"}, firsts(order)); diff != "" {
			t.Error(diff)
		}
	})
}

func firsts(names []string) (out []string) {
	for _, n := range names {
		out = append(out, n[:1])
	}
	return out
}

func TestWhoWaitsMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, func() {})
		if err := turns.acquire(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		late := errors.New("late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, late)
		defer cancel()
		if err := turns.acquire(ctx, "b"); !errors.Is(err, late) {
			t.Errorf("got %v", err)
		}
		turns.release()
		if err := turns.acquire(t.Context(), "c"); err != nil {
			t.Error(err)
		}
		turns.release()
	})
}

// Whatever happens, one model is in flight at a time, never more than the
// limit, and everybody gets in.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			limit := rapid.IntRange(1, 4).Draw(r, "limit")
			turns := newTurns(limit, func() {})
			var mu sync.Mutex
			inFlight, served, asked := map[string]int{}, 0, 0
			change := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
			for range rapid.IntRange(1, 40).Draw(r, "requests") {
				model := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "model")
				patience := time.Duration(rapid.IntRange(1, 1000).Draw(r, "patience")) * time.Second
				change(func() { asked++ })
				go func() {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					if turns.acquire(ctx, model) != nil {
						change(func() { asked-- })
						return
					}
					change(func() {
						inFlight[model]++
						for other, n := range inFlight {
							if n > 0 && (other != model || n > limit) {
								t.Errorf("%d of %s beside %s, limit %d", n, other, model, limit)
							}
						}
					})
					time.Sleep(time.Second)
					change(func() { inFlight[model]--; served++ })
					turns.release()
				}()
				if rapid.Bool().Draw(r, "pause") {
					time.Sleep(time.Duration(rapid.IntRange(0, 1500).Draw(r, "ms")) * time.Millisecond)
				}
				synctest.Wait()
			}
			time.Sleep(time.Hour)
			synctest.Wait()
			if served != asked || len(turns.line) != 0 || turns.inFlight != 0 {
				t.Errorf("%d of %d served, %d wait, %d in flight", served, asked, len(turns.line), turns.inFlight)
			}
		})
	})
}
