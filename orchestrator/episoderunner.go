package orchestrator

import (
	"context"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler/rollout"
)

// An episodeRunner runs many episodes.
type episodeRunner struct {
	driver      *rollout.Driver
	concurrency int // episodes at the same time
	retries     int // of an episode that fails
	gate        *turnstile
	late        *stragglers // nil: the step waits for all of its episodes
	log         zerolog.Logger
}

// driverFor returns the driver with a step's prompt template.
func (r episodeRunner) driverFor(s promptState) *rollout.Driver {
	d := *r.driver
	d.PromptTemplate = s.template
	return &d
}

// run runs the episodes and emits each when it has ended.
func (r episodeRunner) run(ctx context.Context, s promptState, specs []rollout.EpisodeSpec,
	emit func(rollout.Trajectory)) {
	driver := r.driverFor(s)
	run := func(ctx context.Context, spec rollout.EpisodeSpec) rollout.Trajectory {
		r.late.wait(spec)
		if r.gate.enter(ctx) == nil { // else the episode fails at once
			defer r.gate.leave()
		}
		ctx, tried := r.late.start(ctx, spec)
		t := driver.Run(ctx, spec)
		tried(t)
		return t
	}
	scheduler := rollout.Scheduler{Run: run, Concurrency: r.concurrency, Retries: r.retries, Log: r.log}
	scheduler.Sample(ctx, specs, emit)
}
