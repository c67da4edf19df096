package rollout

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Scheduler runs many episodes, some of them at the same time. Episodes are independent: one that fails or takes long
// does not stop or delay the others.
type Scheduler struct {
	// Run runs one episode, for example [Driver.Run]. It must be safe for
	// concurrent use and return soon after its context is done.
	Run         func(context.Context, EpisodeSpec) Trajectory
	Concurrency int // number of episodes at the same time; 0: no limit
	// Retries is the number of times that a failed episode is run again, from the start and with the same seeds, before
	// it is emitted as failed. One that was cancelled is not.
	Retries int
	Log     zerolog.Logger // zero: silent
}

// Sample starts the episodes in the order of specs and emits each one exactly once, as soon as it finished or failed.
// The caller's goroutine calls emit, with one trajectory at a time. A slow emit does not delay episodes. Sample
// returns after the last emit.
//
// When ctx is done, running episodes fail, episodes that have not started are emitted as failed with Attempts 0, and
// there are no retries.
func (s *Scheduler) Sample(ctx context.Context, specs []EpisodeSpec, emit func(Trajectory)) {
	finished := make(chan Trajectory, len(specs)) // room for all: no episode waits for emit
	var group errgroup.Group
	if s.Concurrency > 0 {
		group.SetLimit(s.Concurrency + 1) // the goroutine that starts the episodes counts too
	}
	group.Go(func() error {
		for _, spec := range specs {
			group.Go(func() error {
				finished <- s.attempt(ctx, spec)
				return nil
			})
		}
		return nil
	})
	for range specs {
		emit(<-finished)
	}
	_ = group.Wait() // no episode returns an error
}

// attempt runs one episode until it succeeds or no retries are left.
func (s *Scheduler) attempt(ctx context.Context, spec EpisodeSpec) Trajectory {
	for n := 0; ; n++ {
		if ctx.Err() != nil && n == 0 {
			t := newTrajectory(spec)
			t.Stop, t.Err = stopOf(context.Cause(ctx)), fmt.Sprintf("not started: %v", context.Cause(ctx))
			return t
		}
		t := s.Run(ctx, spec)
		t.Attempts = n + 1
		if !t.Failed() || t.Stop == StopCancelled || n >= s.Retries || ctx.Err() != nil {
			return t
		}
		s.Log.Warn().Int64("step", t.Step).Int("group", t.Group).Int("episode", t.Episode).
			Str("env", t.Task.ID).Str("err", t.Err).Int("attempt", t.Attempts).Msg("episode failed, retrying")
	}
}
