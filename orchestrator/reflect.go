package orchestrator

import (
	"context"
	"errors"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// reflectStage has a tip written about every training episode. The sample stage
// hands it one episode after the other: as soon as it has ended, or, if the base
// model has a server process of its own, when all have. Two processes with few
// requests each cost more than one with full batches.
type reflectStage struct {
	config  config.Reflection
	enabled bool // there is a memory to write tips for
	driver  *rollout.Driver
	base    sampler.Policy // the adapter off
	// newest is the version that writes, unless the base model does. Nil: the one that
	// sampled the step.
	newest func() sampler.Policy
	budget contextBudget
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// with returns the reflection of one step: the policy that sampled the step,
// or the base model, writes the tip. A reflection that fails costs the tip
// and never the episode.
func (s reflectStage) with(p Planned, policy sampler.Policy) reflectFunc {
	by := func() sampler.Policy { return policy }
	switch {
	case s.config.By == "base":
		by = func() sampler.Policy { return s.base }
	case s.newest != nil:
		by = s.newest
	}
	driver := episodeRunner{driver: s.driver}.driverFor(p.prompt)
	return func(ctx context.Context, t *rollout.Trajectory) error {
		if !s.enabled || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := rollout.Served(by, func(p sampler.Policy) error { return s.write(ctx, driver, p, t) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			s.log.Warn().Err(err).Int64("step", t.Step).Int("group", t.Group).Int("episode", t.Episode).Msg("no tip was written")
			return nil
		}
		record, err := storedEpisode(*t, p.Groups[t.Group].Episodes[t.Episode].Mode)
		if err != nil {
			return err
		}
		return s.ledger.UpdateEpisode(context.WithoutCancel(ctx), record)
	}
}

// write samples the tip. If the conversation is too long for the context, it
// leaves out what the environment answered to the last action.
func (s reflectStage) write(ctx context.Context, d *rollout.Driver, by sampler.Policy, t *rollout.Trajectory) error {
	spec := rollout.ReflectSpec{
		Temperature: s.config.Temperature, MaxTokens: s.config.MaxTokens,
		MaxPrompt: s.budget.maxPrompt(s.config.MaxTokens), Seed: childSeed(t.Seed, "reflect"),
	}
	err := d.Reflect(ctx, t, by, spec)
	if !errors.Is(err, sampler.ErrContextFull) {
		return err
	}
	final := t.Final
	t.Final.Feedback = ""
	err = d.Reflect(ctx, t, by, spec)
	t.Final = final
	return err
}
