package orchestrator

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
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
	recall rollout.RecallFunc // of the tips that the writer sees (reflection.earlier_tips)
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

// write samples the tip. If the conversation is too long for the context, it leaves out
// earlier tips and what the environment answered to the last action.
func (s reflectStage) write(ctx context.Context, d *rollout.Driver, by sampler.Policy, t *rollout.Trajectory) error {
	spec := rollout.ReflectSpec{
		Temperature: s.config.Temperature, MaxTokens: s.config.MaxTokens,
		MaxPrompt: s.budget.maxPrompt(s.config.MaxTokens), Seed: childSeed(t.Seed, "reflect"),
	}
	var err error
	if spec.Earlier, err = s.earlier(ctx, t); err != nil {
		return err
	}
	err = d.Reflect(ctx, t, by, spec)
	if !errors.Is(err, sampler.ErrContextFull) {
		return err
	}
	final := t.Final
	t.Final.Feedback, spec.Earlier = "", nil
	err = d.Reflect(ctx, t, by, spec)
	t.Final = final
	return err
}

// earlier returns tips that were written about the episode's task before: those that the
// memory recalls for the last state in which the policy acted.
func (s reflectStage) earlier(ctx context.Context, t *rollout.Trajectory) ([]prompt.Tip, error) {
	states := t.States()
	if s.config.EarlierTips == 0 || s.recall == nil || len(states) == 0 {
		return nil, nil
	}
	recalled, err := s.recall(ctx, rollout.Query{Scope: t.Task.Scope, State: states[len(states)-1],
		Seed: childSeed(t.Seed, "earlier tips")})
	if err != nil {
		return nil, fmt.Errorf("recall earlier tips: %w", err)
	}
	return recalled.Tips[:min(len(recalled.Tips), s.config.EarlierTips)], nil
}
