package orchestrator

import (
	"context"
	"fmt"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// state is what a run keeps from one step to the next. A step returns a new
// one when it is committed.
type state struct {
	step         int64          // the last committed one
	policy       sampler.Policy // the newest version
	versions     []int          // the newest committed ones, oldest first
	episodes     int            // training episodes committed
	trainSeconds float64        // of committed steps, without evaluations
	prompt       promptState
	recent       []StepMetrics // the newest steps, at most recentSteps
	// mismatchReported: a warning was logged and the mismatch is still large.
	mismatchReported bool
	// warned are the largest shares of which the run has warned.
	warned shares
	// lost is the version whose missing checkpoint was reported last.
	lost int
}

// A session is a run that is open: trainer and server have the last committed
// version, and every stage has what it needs of the [Loop].
type session struct {
	loop  *Loop
	state state

	plan     planStage
	sample   sampleStage
	reflect  reflectStage
	estimate estimateStage
	train    trainStage
	guard    divergenceGuard
	replies  replyReporter
	stale    staleStage
	mismatch mismatchReporter
	publish  publishStage
	commit   commitStage
	evaluate evaluator

	ahead *aheadSampler // nil: steps are sampled and trained in turn
}

// start is what a run finds when it is opened.
type start struct {
	tasks       []envs.Task    // of training
	environment []byte         // the record of the environment; nil: it has none
	base        sampler.Policy // the adapter off
	server      sampler.Capabilities
}

// open brings trainer and server to the last committed step.
func (l *Loop) open(ctx context.Context) (*session, error) {
	var now start
	var err error
	if now.tasks, err = l.Family.Tasks(envs.Train); err != nil {
		return nil, err
	}
	if len(now.tasks) == 0 {
		return nil, fmt.Errorf("environment %s has no training task", l.Family.Name())
	}
	if err := l.checkFolder(ctx); err != nil {
		return nil, err
	}
	history, err := History(ctx, l.Ledger)
	if err != nil {
		return nil, err
	}
	kept := state{prompt: promptState{template: l.Driver.PromptTemplate}, versions: []int{0}}
	for _, m := range history {
		kept.versions = kept.withVersion(m.Version)
		kept.episodes, kept.trainSeconds = m.Episodes, kept.trainSeconds+m.Seconds.Total
		kept.recent = kept.with(m)
		kept.warned, _ = kept.warned.with(sharesOf(m.Replies, m.Stops))
	}
	last, err := l.Ledger.Last(ctx)
	if err != nil {
		return nil, err
	}
	kept.step = last.Step
	l.progress().remember(kept.recent)
	l.begin(ctx, last.Step+1, watchdog.PhaseStart, 0, "")
	if now.environment, err = l.recordEnvironment(ctx, last.Step); err != nil {
		return nil, err
	}
	if err := l.restore(ctx, last.Version); err != nil {
		return nil, err
	}
	if now.base, now.server, err = l.serveBase(ctx, last); err != nil {
		return nil, err
	}
	kept.policy = now.base
	s := l.newSession(now)
	if last.Version > 0 {
		if kept.policy, err = s.publish.restored(ctx, last.Version); err != nil {
			return nil, err
		}
	}
	s.state = kept
	return s, nil
}

// restore brings the trainer to a committed version. It discards newer files
// only after the checkpoint is known to be good.
func (l *Loop) restore(ctx context.Context, version int) error {
	if l.Trainer == nil {
		return nil
	}
	if err := l.recoverer().restore(ctx, "restore", version); err != nil {
		return err
	}
	return l.Ledger.DiscardAfter(version)
}

// restoreTrainer brings the trainer to a version, after the version's checkpoint
// has been compared with what was committed.
func restoreTrainer(ctx context.Context, run *ledger.Ledger, trainer Trainer, version int) error {
	if err := run.VerifyCheckpoint(ctx, version); err != nil {
		return err
	}
	return trainer.Restore(ctx, version)
}

// checkFolder verifies what the start depends on, and records what the last end
// has cost.
func (l *Loop) checkFolder(ctx context.Context) error {
	complete, err := l.Ledger.QuickCheck(ctx)
	if err != nil {
		return err
	}
	if !complete {
		l.Log.Info().Msg("run.db is too large to check all of its pages at every start; empo2 check does")
	}
	if l.Ledger.Lost == "" {
		return nil
	}
	l.Log.Warn().Msg(l.Ledger.Lost)
	last, err := l.Ledger.Last(ctx)
	if err != nil {
		return err
	}
	return l.Ledger.Event(ctx, last.Step+1, "damage", l.Ledger.Lost)
}

// serveBase publishes the base model and asks what the server can do.
func (l *Loop) serveBase(ctx context.Context, last ledger.Step) (sampler.Policy, sampler.Capabilities, error) {
	base := sampler.Adapter{}
	if last.Version == 0 && l.Trainer != nil { // else the trainer has a newer version, which gets the canary
		base.Score = l.publishStage().score(0)
	}
	policy, err := l.Backend.Publish(ctx, base)
	if err != nil {
		return policy, sampler.Capabilities{}, fmt.Errorf("serve the base model: %w", err)
	}
	can, err := l.Backend.Capabilities(ctx)
	return policy, can, err
}

// newSession gives each stage its part of the configuration and dependencies.
func (l *Loop) newSession(now start) *session {
	c := l.Config
	s := &session{loop: l, publish: l.publishStage()}
	s.plan = planStage{config: c, tasks: now.tasks, ledger: l.Ledger,
		prompts: promptReader{ledger: l.Ledger, read: l.ReadPrompt, observer: l.observer(), log: l.Log}}
	runner := episodeRunner{driver: l.Driver, concurrency: c.Rollout.Concurrency,
		retries: c.Rollout.Retries, log: l.Log}
	recall := RecallFrom(l.Memory)
	budget := contextBudget{length: now.server.ContextLength, reflection: c.Reflection.MaxTokens}
	s.sample = sampleStage{rollout: c.Rollout, keep: rollout.Keep(c.Memory.Keep), runner: runner,
		choose: choiceOf(l.Memory, c.Memory.JitRL.Candidates), reflects: c.Reflects() && l.Memory != nil,
		ledger: l.Ledger, recall: recall, budget: budget, progress: l.progress(),
		reflectAfter: c.Reflection.By == "base" && now.server.Adapters == "process"}
	s.reflect = reflectStage{config: c.Reflection, enabled: s.sample.reflects, driver: l.Driver, base: now.base,
		recall: recall, budget: budget, ledger: l.Ledger, log: l.Log}
	s.estimate = estimateStage{config: c, enabled: l.Trainer != nil, memory: l.Memory != nil}
	s.train = trainStage{config: c, trainer: l.Trainer, sleeper: l.Sleeper, ledger: l.Ledger, log: l.Log,
		recovery: l.recoverer(), progress: l.progress()}
	s.stale = staleStage{max: c.Rollout.MaxStaleness, ledger: l.Ledger, log: l.Log}
	s.replies = replyReporter{ledger: l.Ledger, log: l.Log}
	s.guard = divergenceGuard{config: c.Divergence, ledger: l.Ledger, log: l.Log}
	s.mismatch = mismatchReporter{tolerance: c.Loss.MismatchTolerance, can: now.server,
		ledger: l.Ledger, log: l.Log}
	s.commit = commitStage{ledger: l.Ledger, memory: l.Memory,
		keep:          c.KeptCheckpoints(),
		noveltyWeight: c.Novelty.Weight,
		retention: retention{ledger: l.Ledger, keep: c.Run.KeepEpisodes, memory: l.Memory != nil,
			actions: c.Memory.Strategy != memory.TipsStrategy}, log: l.Log}
	s.evaluate = evaluator{config: c, family: l.Family, ledger: l.Ledger, runner: runner,
		budget: budget, reflects: s.sample.reflects, environment: now.environment, progress: l.progress(),
		observer: l.observer(), replies: s.replies, warned: &shares{}}
	if c.Algorithm.Name == "adapt" {
		s.evaluate.recall, s.evaluate.choose = recall, s.sample.choose
	}
	return s
}

// finished reports whether the run has used its steps or its time.
func (s *session) finished() bool {
	return reached(s.loop.Config, s.state.step, s.state.trainSeconds)
}

// reached reports whether a run has the number of steps or the seconds of its budget.
func reached(c config.Config, step int64, seconds float64) bool {
	return step >= int64(c.Run.Steps) || c.Run.MaxSeconds > 0 && seconds >= c.Run.MaxSeconds
}

// recordContinuation records that an unfinished run was continued.
func (s *session) recordContinuation(ctx context.Context) error {
	if s.state.step == 0 || s.finished() {
		return nil
	}
	version := s.state.policy.Version
	s.loop.Log.Info().Int64("step", s.state.step).Int("version", version).Msg("continuing")
	return s.loop.Ledger.Event(ctx, s.state.step, "continued", fmt.Sprintf("with version %d", version))
}
