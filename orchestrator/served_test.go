package orchestrator

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A closed turnstile waits for those inside, and lets nobody in until it is open.
func TestATurnstileWaitsForThoseInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gate turnstile
		ctx := t.Context()
		if err := gate.enter(ctx); err != nil {
			t.Fatal(err)
		}
		closed, entered := false, false
		go func() {
			closed = gate.close(ctx) == nil
		}()
		synctest.Wait()
		go func() {
			entered = gate.enter(ctx) == nil
		}()
		synctest.Wait()
		if closed || entered {
			t.Fatalf("closed %v, entered %v while one is inside", closed, entered)
		}
		gate.leave()
		synctest.Wait()
		if !closed || entered {
			t.Fatalf("closed %v, entered %v after it left", closed, entered)
		}
		gate.open()
		synctest.Wait()
		if !entered {
			t.Error("nobody entered the open turnstile")
		}
		late := errors.New("late")
		bounded, cancel := context.WithTimeoutCause(ctx, time.Second, late)
		defer cancel()
		if err := gate.close(bounded); !errors.Is(err, late) {
			t.Errorf("got %v", err)
		}
		if err := gate.enter(ctx); err != nil {
			t.Errorf("closed for ever: %v", err)
		}
		var none *turnstile
		if none.enter(ctx) != nil {
			t.Error("no turnstile lets nobody in")
		}
		none.leave()
	})
}

// Time counts while the side works, unless it is held.
func TestABusyClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c busyClock
		for _, at := range []func(){
			func() { c.set(true) },   // counts
			func() { c.hold(true) },  // does not
			func() { c.hold(false) }, // counts
			func() { c.set(false) },  // does not
			func() { c.set(true) },   // counts
		} {
			at()
			time.Sleep(time.Second)
		}
		if got := c.take(); got != 3 || c.taken() != time.Now() {
			t.Errorf("%g s", got)
		}
		time.Sleep(time.Second)
		if got := c.take(); got != 1 {
			t.Errorf("%g s since", got)
		}
	})
}
