package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Persist calls try until it succeeds, again forbids another attempt, or the patience
// ends. The pauses double from 0.1 s to 5 s. If the server asks for a longer pause, it is
// used, up to a minute.
func (c *Client) Persist(
	ctx context.Context, op string, again func(*jsonhttp.Error) bool, try func(context.Context) error,
) error {
	spent := fmt.Errorf("%s: gave up on %s after %v", op, c.Clean(c.URL()), c.server.Patience)
	patient, cancel := context.WithTimeoutCause(ctx, c.server.Patience, spent)
	defer cancel()
	var last *jsonhttp.Error // nil if the last attempt succeeded or has another error
	retry := jsonhttp.Retry{
		First: firstPause, Last: lastPause,
		Again: func(err error) bool { return errors.As(err, &last) && again(last) },
		Before: func(_ int, pause time.Duration, err error) {
			c.server.Log.Debug().Err(err).Str("op", op).Stringer("pause", pause).Msg("environment server: trying again")
		},
	}
	err := retry.Do(patient, func(ctx context.Context) error {
		last = nil
		return try(ctx)
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", op, context.Cause(ctx))
	case last != nil && errors.Is(last, spent):
		return spent
	case last != nil && again(last):
		return fmt.Errorf("%w; last: %w", spent, last)
	case last != nil && last.Op != "":
		return err
	}
	return fmt.Errorf("%s: %w", op, err)
}
