package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

// errTrained ends the sampling of steps that the run does not train any more.
var errTrained = errors.New("the training has ended")

// sampledStep is a step that one side of the run has sampled for the other to train.
type sampledStep struct {
	begun   time.Time
	planned Planned
	sampled Sampled
	phases  []PhaseRecord
	err     error // why it could not be sampled
}

// An aheadSampler samples steps while the steps before them are trained
// (rollout.max_staleness). What it does depends on time only in two ways: which version
// samples a turn, and in which order episodes finish. The plan of a step is drawn from
// (seed, step). A step sees the memory as the step before it will leave it: the episodes
// of that step are in the ledger, even if it is not committed yet. So it does not matter
// how far the training is, nor whether the run was killed since.
type aheadSampler struct {
	session  *session
	limit    int64 // rollout.max_staleness
	steps    int64 // of the run
	served   *servedVersion
	gate     *turnstile // episodes begin and tips are written inside
	clock    *busyClock
	progress *progress
	sampled  chan sampledStep
	cancel   context.CancelCauseFunc
	retiring sync.WaitGroup // versions that still answer their last requests
	ended    chan struct{}
	waiting  []Sampled // steps that were sampled, at least those that are not committed; of run

	mu        sync.Mutex
	committed int64
	changed   chan struct{} // closed with the next commit
}

// sampleAhead begins to sample the steps after the last committed one.
func (s *session) sampleAhead(ctx context.Context) *aheadSampler {
	c := s.loop.Config
	ctx, cancel := context.WithCancelCause(ctx)
	a := &aheadSampler{session: s, limit: int64(c.Rollout.MaxStaleness), steps: int64(c.Run.Steps),
		served: &servedVersion{now: s.state.policy}, gate: &turnstile{}, clock: &busyClock{},
		progress: s.loop.progress().side(), sampled: make(chan sampledStep, c.Rollout.MaxStaleness+1), cancel: cancel,
		ended: make(chan struct{}), committed: s.state.step, changed: make(chan struct{})}
	first, prompt := s.state.step+1, s.state.prompt
	go func() {
		defer close(a.ended)
		a.run(ctx, first, prompt)
	}()
	return a
}

// stop ends the sampling and waits for it. Finished episodes stay in the ledger.
func (a *aheadSampler) stop() {
	a.cancel(errTrained)
	<-a.ended
	a.retiring.Wait()
}

// run samples steps until the last one, an error, or the end of ctx.
func (a *aheadSampler) run(ctx context.Context, step int64, prompt promptState) {
	defer close(a.sampled)
	for ; step <= a.steps; step++ {
		if a.awaitCommit(ctx, step-1-a.limit) != nil {
			return
		}
		out := a.sample(ctx, step, prompt)
		prompt = out.planned.prompt
		a.waiting = append(a.waiting, out.sampled)
		a.waiting = a.waiting[max(0, len(a.waiting)-int(a.limit)-1):]
		a.sampled <- out // there is room: the last limit steps, and this one
		if out.err != nil {
			return
		}
	}
}

// sample samples one step.
func (a *aheadSampler) sample(ctx context.Context, step int64, prompt promptState) (out sampledStep) {
	out.begun = time.Now()
	a.clock.set(true)
	defer a.clock.set(false)
	a.progress.begin(ctx, watchdog.Phase{Name: watchdog.PhaseSampling, Step: step})
	defer func() { out.phases = a.progress.finish() }()
	s := a.session
	before := state{step: step - 1, policy: a.served.get(), prompt: prompt}
	if out.planned, out.err = s.plan.run(ctx, before); out.err != nil {
		return out
	}
	stage := s.sample
	stage.progress, stage.newest, stage.runner.gate = a.progress, a.served.get, a.gate
	if stage.recall, out.err = a.recall(ctx, out.planned.Plan); out.err != nil {
		return out
	}
	reflection := s.reflect
	reflection.newest, reflection.recall = a.served.get, stage.recall
	reflect := a.inside(reflection.with(out.planned, before.policy))
	out.sampled, out.err = stage.run(ctx, out.planned, before.policy, reflect)
	out.sampled.Seconds = time.Since(out.begun).Seconds()
	return out
}

// inside writes tips behind the turnstile.
func (a *aheadSampler) inside(reflect reflectFunc) reflectFunc {
	return func(ctx context.Context, t *rollout.Trajectory) error {
		if err := a.gate.enter(ctx); err != nil {
			return err
		}
		defer a.gate.leave()
		return reflect(ctx, t)
	}
}

// recall returns what the episodes of a step may recall: the memory as the step before
// will leave it. Nil: there is no memory.
func (a *aheadSampler) recall(ctx context.Context, plan Plan) (rollout.RecallFunc, error) {
	if a.session.sample.recall == nil {
		return nil, nil
	}
	m, ok := a.session.loop.Memory.(memory.Previewer)
	if !ok {
		return nil, fmt.Errorf("memory %T cannot show what is not committed yet\n"+
			"  hint: set rollout.max_staleness = 0 with this memory", a.session.loop.Memory)
	}
	var steps [][]memory.Experience
	a.mu.Lock()
	committed := a.committed
	a.mu.Unlock()
	for _, s := range a.waiting {
		if s.Plan.Step > committed { // if it is committed meanwhile, it does not count again
			steps = append(steps, experiencesOf(s))
		}
	}
	var scopes []string
	for _, g := range plan.Groups {
		scopes = append(scopes, g.Task.Scope)
	}
	f, err := m.Preview(ctx, steps, scopes)
	if err != nil {
		return nil, err
	}
	return recallBy(f), nil
}

// awaitCommit waits until a step is committed.
func (a *aheadSampler) awaitCommit(ctx context.Context, step int64) error {
	for {
		a.mu.Lock()
		committed, changed := a.committed, a.changed
		a.mu.Unlock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if committed >= step {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// take has turns sampled from the version of a committed step. The version before it is
// retired when its last request has ended.
func (a *aheadSampler) take(ctx context.Context, committed state) {
	old := a.served.get()
	a.served.set(committed.policy)
	a.mu.Lock()
	a.committed = committed.step
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	if old != committed.policy {
		a.retiring.Go(func() { a.session.publish.retire(ctx, old) })
	}
}

// runOverlapped trains steps while the steps after them are sampled.
func (s *session) runOverlapped(ctx context.Context) error {
	if s.finished() {
		return nil // nothing is sampled that is not trained
	}
	s.ahead = s.sampleAhead(ctx)
	defer s.ahead.stop()
	begun := time.Now() // a step takes from the commit before to its own
	for !s.finished() {
		if s.evaluationDue() {
			alone, err := s.evaluateAlone(ctx)
			if err != nil {
				return err
			}
			begun = begun.Add(alone)
		}
		s.loop.begin(ctx, s.state.step+1, watchdog.PhaseWaiting, 0, "")
		in, err := s.ahead.next(ctx)
		if err == nil {
			in.begun = begun
			err = s.finish(ctx, in)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", s.state.step+1, err)
		}
		begun = s.ahead.clock.taken()
		s.ahead.take(ctx, s.state)
	}
	return nil
}

// next waits for the next sampled step.
func (a *aheadSampler) next(ctx context.Context) (sampledStep, error) {
	select {
	case in, ok := <-a.sampled:
		if ok && in.err == nil {
			return in, nil
		}
		if ctx.Err() == nil && ok {
			return in, in.err
		}
	case <-ctx.Done():
	}
	return sampledStep{}, context.Cause(ctx)
}

// evaluateAlone evaluates the committed version while no training episode runs. It
// returns the time that the evaluation took, without the wait before it.
func (s *session) evaluateAlone(ctx context.Context) (time.Duration, error) {
	if err := s.ahead.gate.close(ctx); err != nil {
		return 0, err
	}
	defer s.ahead.gate.open()
	s.ahead.clock.hold(true)
	defer s.ahead.clock.hold(false)
	begun := time.Now()
	err := s.evaluate.once(ctx, s.state, envs.Eval, s.loop.Config.Eval.Episodes)
	return time.Since(begun), err
}
