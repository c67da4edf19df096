package rollout

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Scheduler runs many episodes, some of them at the same time. Episodes do not
// know of each other: one that fails or takes long neither stops nor delays
// the others.
type Scheduler struct {
	// Run runs one episode, for example [Driver.Run]. It must be safe for
	// concurrent use and return soon after its context is done.
	Run         func(context.Context, EpisodeSpec) Trajectory
	MaxEpisodes int // episodes at the same time; 0: all
	// Retries is how often an episode that failed is run again, from the
	// start and with the same seeds, before it is emitted as failed.
	Retries int
	Log     zerolog.Logger // zero: silent
}

// Sample runs the episodes, started in the order of specs, and emits each
// exactly once, as soon as it has finished or failed. emit is called by the
// caller's goroutine, one trajectory at a time; a slow emit delays no episode.
// Sample returns after the last emit.
//
// When ctx is done, what is running fails, what has not been started is
// emitted as failed with Attempts 0, and nothing is run again.
func (s *Scheduler) Sample(ctx context.Context, specs []EpisodeSpec, emit func(Trajectory)) {
	finished := make(chan Trajectory, len(specs)) // room for all: no episode waits for emit
	var group errgroup.Group
	if s.MaxEpisodes > 0 {
		group.SetLimit(s.MaxEpisodes + 1) // one more: the dispatcher
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

// attempt runs one episode until it does not fail or the retries are used up.
func (s *Scheduler) attempt(ctx context.Context, spec EpisodeSpec) Trajectory {
	for n := 0; ; n++ {
		if ctx.Err() != nil && n == 0 {
			t := newTrajectory(spec)
			t.Stop, t.Err = StopFailed, fmt.Sprintf("not started: %v", context.Cause(ctx))
			return t
		}
		t := s.Run(ctx, spec)
		t.Attempts = n + 1
		if !t.Failed() || n >= s.Retries || ctx.Err() != nil {
			return t
		}
		s.Log.Warn().Int64("step", t.Step).Int("group", t.Group).Int("episode", t.Episode).
			Str("env", t.Task.ID).Str("err", t.Err).Int("attempt", t.Attempts).Msg("episode failed, again")
	}
}
