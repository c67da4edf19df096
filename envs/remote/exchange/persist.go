package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Persist calls try until it succeeds, fails in a way that again does not
// allow to be repeated, or the patience ends. Pauses double from 0.1 s to 5 s;
// a server that asks for a longer one has it.
func (c *Client) Persist(ctx context.Context, op string, again func(*Failure) bool, try func(context.Context) error) error {
	spent := fmt.Errorf("%s: gave up on %s after %v", op, c.URL(), c.server.Patience)
	patient, cancel := context.WithTimeoutCause(ctx, c.server.Patience, spent)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try(patient)
		var f *Failure
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("%s: %w", op, context.Cause(ctx))
		case errors.Is(err, spent):
			return spent
		case !errors.As(err, &f) || !again(f):
			return fmt.Errorf("%s: %w", op, err)
		}
		c.server.Log.Debug().Err(err).Str("op", op).Dur("pause", pause).Msg("environment server: trying again")
		if !sleep(patient, max(pause, f.After)) {
			if ctx.Err() != nil {
				return fmt.Errorf("%s: %w", op, context.Cause(ctx))
			}
			return fmt.Errorf("%w; last: %w", spent, err)
		}
	}
}

// sleep pauses and reports whether ctx is still good.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
