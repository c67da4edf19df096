package process

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Budget limits the restarts of a process. Its methods must be called by one
// goroutine at a time.
type Budget struct {
	Restarts int           // allowed within Window; 0: none
	Window   time.Duration // restarts older than this do not count
	// Pause is the time before the second restart within Window. It doubles
	// with each further restart. The first restart is immediate.
	Pause time.Duration
	// Report is called with the reason of each restart, before the restart is made.
	// Nil: not called.
	Report func(why error)

	restarts []time.Time // those within Window
}

// NewBudget allows a child process of a run this many restarts within half an
// hour. The second one comes after a second.
func NewBudget(restarts int) Budget {
	return Budget{Restarts: restarts, Window: 30 * time.Minute, Pause: time.Second}
}

// maxPause bounds the time before a restart.
const maxPause = time.Minute

// Next counts and reports a restart because of why, and waits until it is due. It
// returns an error if the budget is spent or ctx has ended.
func (b *Budget) Next(ctx context.Context, why error) error {
	now := time.Now()
	for len(b.restarts) > 0 && now.Sub(b.restarts[0]) > b.Window {
		b.restarts = b.restarts[1:]
	}
	if len(b.restarts) >= b.Restarts {
		return fmt.Errorf("given up after %d restarts within %v", len(b.restarts), b.Window)
	}
	b.restarts = append(b.restarts, now)
	if b.Report != nil {
		b.Report(why)
	}
	pause := time.NewTimer(b.pause(len(b.restarts)))
	defer pause.Stop()
	select {
	case <-pause.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Start calls start. If the process that it starts is killed by a signal from
// outside, Start calls it again, within the budget. A process that ends by itself
// is not started again: it would end again.
func (b *Budget) Start(ctx context.Context, start func() error) error {
	for {
		err := start()
		var exit *ExitError
		if err == nil || ctx.Err() != nil || !errors.As(err, &exit) || !exit.Killed {
			return err
		}
		if spent := b.Next(ctx, err); spent != nil {
			return fmt.Errorf("%w: %w", spent, err)
		}
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
