package sampler

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// defaultDeadline bounds a call that names no deadline.
const defaultDeadline = 2 * time.Minute

// WithDeadline runs f with a deadline of d from now (0: two minutes). The error names op and, if the deadline or the
// caller ended f, the cause.
func WithDeadline(ctx context.Context, d time.Duration, op string, f func(context.Context) error) error {
	if d <= 0 {
		d = defaultDeadline
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d, fmt.Errorf("no answer within %v", d))
	defer cancel()
	err := f(ctx)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)) {
		return fmt.Errorf("%s: %w (%w)", op, context.Cause(ctx), err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// Within returns a context that ends if ctx or life ends, with the cause of that context. Call the returned function to
// release it.
func Within(ctx, life context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(life, func() { cancel(context.Cause(life)) })
	return ctx, func() { stop(); cancel(nil) }
}
