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
	s.loop.begin(ctx, before.step+1, watchdog.PhaseSampling, 0, "")
	s.loop.progress().taken() // those before the step
	planned, err := s.plan.run(ctx, before)
	if err != nil {
		return err
	}
	planned, sampled, err := s.generate(ctx, planned, before)
	if err != nil {
		return err
	}
	sampled.Seconds = time.Since(begun).Seconds()
	return s.finish(ctx, sampledStep{begun: begun, planned: planned, sampled: sampled})
}

// finish trains and commits a step that is sampled.
func (s *session) finish(ctx context.Context, in sampledStep) error {
	before := s.state
	begin := func(phase string) { s.loop.begin(ctx, before.step+1, phase, 0, "") }
	warned, err := s.replies.report(ctx, in.sampled, before.warned)
	if err != nil {
		return err
	}
	sampled, err := s.stale.run(ctx, in.sampled, before)
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
	published, err := s.serve(ctx, update)
	if err != nil {
		return err
	}
	begin(watchdog.PhaseCommit)
	committed, err := s.commit.run(ctx, finishedStep{
		begun: in.begun, before: before,
		planned: in.planned, sampled: sampled, batch: batch, update: update, published: published,
		leftOut: len(left), diverging: signs, phases: append(in.phases, s.loop.progress().taken()...),
		late: s.loop.takeLate(), sampling: s.samplingClock(),
	})
	if err != nil {
		return err
	}
	s.state = committed.state
	s.state.mismatchReported, s.state.warned = reported, warned
	if o := s.loop.observer(); o != nil {
		o.Step(committed.Metrics)
	}
	return nil
}

// serve publishes an update. If no episode runs, the version before it is retired at once.
func (s *session) serve(ctx context.Context, update *Update) (Published, error) {
	if s.ahead == nil {
		return s.publish.run(ctx, update, s.state.policy)
	}
	s.ahead.retiring.Wait() // a server has room for two versions
	return s.publish.serve(ctx, update, s.state.policy)
}

// samplingClock measures how long steps are sampled; nil: no step is sampled while another
// is trained.
func (s *session) samplingClock() *busyClock {
	if s.ahead == nil {
		return nil
	}
	return s.ahead.clock
}
