package orchestrator

import (
	"context"
	"time"

	"github.com/empo2/empo2/orchestrator/watchdog"
)

// step runs the step after the last committed one. The stages read the state
// that the step began with; only the commit makes a new one.
func (s *session) step(ctx context.Context) error {
	begun, before := time.Now(), s.state
	begin := func(phase string) { s.loop.begin(ctx, before.step+1, phase, 0, "") }

	begin(watchdog.PhaseSampling)
	s.loop.progress().taken() // those before the step
	planned, err := s.plan.run(ctx, before)
	if err != nil {
		return err
	}
	reflect := s.reflect.with(planned, before.policy)
	sampled, err := s.sample.run(ctx, planned, before.policy, reflect)
	if err != nil {
		return err
	}
	sampled.Seconds = time.Since(begun).Seconds()

	warned, err := s.replies.report(ctx, sampled, before.warned)
	if err != nil {
		return err
	}
	batch := s.estimate.run(sampled)
	begin(watchdog.PhaseTraining)
	update, left, err := s.train.run(ctx, batch, before)
	if err != nil {
		return err
	}
	signs, err := s.guard.run(ctx, update, before)
	if err != nil {
		return err
	}
	reported, err := s.mismatch.report(ctx, update, before.mismatchReported)
	if err != nil {
		return err
	}
	begin(watchdog.PhasePublishing)
	published, err := s.publish.run(ctx, update, before.policy)
	if err != nil {
		return err
	}
	begin(watchdog.PhaseCommit)
	committed, err := s.commit.run(ctx, finishedStep{
		begun: begun, before: before,
		planned: planned, sampled: sampled, batch: batch, update: update, published: published,
		leftOut: len(left), diverging: signs, phases: s.loop.progress().taken(),
	})
	if err != nil {
		return err
	}
	s.state = committed.state
	s.state.mismatchReported, s.state.warned = reported, warned
	if s.loop.Observer != nil {
		s.loop.Observer.Step(committed.Metrics)
	}
	return nil
}
