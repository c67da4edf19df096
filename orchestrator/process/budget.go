package process

import (
	"context"
	"fmt"
	"time"
)

// A Budget says how often a process may be started again before it is given
// up. Its methods are called by one goroutine at a time.
type Budget struct {
	Restarts int           // within Window; 0: none
	Window   time.Duration // over which restarts are counted
	// Pause is the time before the second restart within Window; it doubles
	// with each further one. The first restart is immediate.
	Pause time.Duration

	ends []time.Time // recent
}

// ServerBudget allows an inference server this many restarts within half an
// hour; 0: 3 restarts, negative: none.
func ServerBudget(restarts int) Budget {
	if restarts == 0 {
		restarts = 3
	}
	return Budget{Restarts: restarts, Window: 30 * time.Minute, Pause: time.Second}
}

// maxPause bounds the time before a restart.
const maxPause = time.Minute

// Next counts a restart and waits for its time. An error says that there were
// too many, or that ctx has ended.
func (b *Budget) Next(ctx context.Context) error {
	now := time.Now()
	for len(b.ends) > 0 && now.Sub(b.ends[0]) > b.Window {
		b.ends = b.ends[1:]
	}
	if len(b.ends) >= b.Restarts {
		return fmt.Errorf("given up after %d restarts within %v", len(b.ends), b.Window)
	}
	b.ends = append(b.ends, now)
	pause := time.NewTimer(b.pause(len(b.ends)))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pause is the time before the n-th restart, counted from 1.
func (b *Budget) pause(n int) time.Duration {
	pause := time.Duration(0)
	for i := 1; i < n && pause < maxPause; i++ {
		pause = max(2*pause, b.Pause)
	}
	return min(pause, maxPause)
}
