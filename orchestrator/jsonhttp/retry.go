package jsonhttp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Retry says how a call is repeated. The zero value repeats [Retryable] errors until the context ends, after pauses of
// 0.1 s, 0.2 s, 0.4 s, … up to 5 s. Every pause is randomly up to a quarter shorter or longer, so that clients that
// failed at the same time do not retry at the same time.
type Retry struct {
	First  time.Duration // pause before the second attempt; default 0.1 s
	Last   time.Duration // longest pause; default 5 s
	Factor float64       // by which a pause grows; default 2
	// Attempts is the maximum number of attempts; 0: no limit.
	Attempts int
	// LongestAfter bounds the pause that a server may request with Retry-After; default 1 minute. If that pause ends
	// after the deadline, Do returns at once.
	LongestAfter time.Duration
	// Again decides whether an error is worth another attempt; nil: [Retryable].
	Again func(error) bool
	// Before is called before each pause; may be nil. attempt is the number of
	// attempts so far.
	Before func(attempt int, pause time.Duration, err error)
}

// jitter is the fraction of a pause by which it may be shorter or longer.
const jitter = 0.25

// Do calls try until it succeeds or must not be repeated. The error wraps the last error of try and, if the context
// ended, its cause.
func (r Retry) Do(ctx context.Context, try func(context.Context) error) error {
	if r.Again == nil {
		r.Again = Retryable
	}
	p := r.pauses(ctx)
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		p.attempts++
		p.last = try(ctx)
		if p.again = p.last != nil && r.Again(p.last); p.last != nil && !p.again {
			return struct{}{}, backoff.Permanent(p.last)
		}
		return struct{}{}, p.last
	}, backoff.WithBackOff(p), backoff.WithMaxElapsedTime(0), backoff.WithMaxTries(uint(r.Attempts)),
		backoff.WithNotify(func(err error, pause time.Duration) {
			if r.Before != nil {
				r.Before(p.attempts, pause, err)
			}
		}))
	if err == nil {
		return nil
	}
	return p.explain(r.Attempts)
}

// pauses computes the pauses of one call of Do. It implements [backoff.BackOff].
type pauses struct {
	backoff.ExponentialBackOff
	ctx          context.Context
	longestAfter time.Duration
	attempts     int
	last         error         // of the latest attempt
	again        bool          // last may be retried
	tooLong      time.Duration // the server's pause, if it would end after the deadline
}

func (r Retry) pauses(ctx context.Context) *pauses {
	first, last, factor := r.First, r.Last, r.Factor
	if first == 0 {
		first = 100 * time.Millisecond
	}
	if last == 0 {
		last = 5 * time.Second
	}
	if factor == 0 {
		factor = 2
	}
	longestAfter := r.LongestAfter
	if longestAfter == 0 {
		longestAfter = time.Minute
	}
	return &pauses{ctx: ctx, longestAfter: longestAfter, ExponentialBackOff: backoff.ExponentialBackOff{
		InitialInterval: first, MaxInterval: last, Multiplier: factor, RandomizationFactor: jitter,
	}}
}

// NextBackOff returns the next pause: the longer one of the client's and the server's.
func (p *pauses) NextBackOff() time.Duration {
	pause := p.ExponentialBackOff.NextBackOff()
	var e *Error
	if errors.As(p.last, &e) {
		after := min(e.After, p.longestAfter)
		if deadline, ok := p.ctx.Deadline(); ok && time.Until(deadline) < after {
			p.tooLong = after
			return backoff.Stop
		}
		pause = max(pause, after)
	}
	return pause
}

// explain adds the reason why the call is not repeated to the last error.
func (p *pauses) explain(attempts int) error {
	cause := context.Cause(p.ctx)
	switch {
	case cause != nil && !errors.Is(p.last, cause):
		return fmt.Errorf("%w (last: %w)", cause, p.last)
	case cause != nil:
		return p.last
	case p.tooLong > 0:
		next := p.tooLong.Round(time.Millisecond)
		return fmt.Errorf("%w (the next attempt would be in %v, after the deadline)", p.last, next)
	case p.again && p.attempts == attempts && attempts > 1:
		return fmt.Errorf("after %d attempts: %w", p.attempts, p.last)
	}
	return p.last
}
