package orchestrator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// Sampled holds the episodes of a step.
type Sampled struct {
	Plan Plan
	// Groups are the episodes by group and number, failed ones included.
	Groups  [][]rollout.Trajectory
	Seconds float64 // since the step began

	Version   int // that the step's update begins with; set by the stage of staleness
	Staleness Staleness
	stale     map[int]bool // groups that are too old to train on
	tied      map[int]bool // groups that others replace (algorithm.generation_batches)
}

// sampleStage runs the episodes of a plan. Each finished episode is stored at
// once, so that a run that dies loses none.
type sampleStage struct {
	rollout  config.Rollout
	keep     rollout.Keep
	runner   episodeRunner
	ledger   *ledger.Ledger
	recall   rollout.RecallFunc // nil: no memory
	choose   choice             // among the policy's proposals, in episodes with memory
	reflects bool               // training episodes are reflected upon
	budget   contextBudget
	progress *progress
	// newest is the version to sample a turn from. Nil: a step is sampled from one version.
	newest func() sampler.Policy
	// reflectAfter has all tips written after the last episode, in full batches, and
	// not each beside the episodes that still run.
	reflectAfter bool
}

// reflectFunc adds the tip to a finished episode and stores it.
type reflectFunc func(context.Context, *rollout.Trajectory) error

// run samples the episodes of the plan that are not in the ledger yet and
// hands every finished episode to reflect, at once or after the last one. It fails
// if more than half of the episodes failed.
func (s sampleStage) run(ctx context.Context, p Planned, policy sampler.Policy, reflect reflectFunc) (Sampled, error) {
	groups, err := s.finished(ctx, p.Plan)
	if err != nil {
		return Sampled{}, err
	}
	specs, err := s.missing(ctx, p, policy, groups)
	if err != nil {
		return Sampled{}, err
	}
	sampled := Sampled{Plan: p.Plan, Groups: groups}
	s.progress.count(p.Episodes()-len(specs), p.Episodes(), "episodes")
	var failed failures
	if !s.reflectAfter {
		err = s.reflectLate(ctx, p.Step, groups, reflect)
	}
	if err == nil && len(specs) > 0 {
		failed, err = s.play(ctx, p, specs, groups, reflect)
	}
	if err == nil && s.reflectAfter {
		err = s.reflectLate(ctx, p.Step, groups, reflect)
	}
	if ctx.Err() != nil {
		return Sampled{}, context.Cause(ctx)
	}
	if err == nil && 2*failed.n > p.Episodes() {
		err = fmt.Errorf("%d of %d episodes failed, for example: %s\n"+
			"  hint: the step is not committed; remove the cause and run the same command again",
			failed.n, p.Episodes(), withoutHint{errors.New(failed.why)})
	}
	if err == nil && failed.n > 0 {
		err = s.ledger.Event(ctx, p.Step, "episodes failed", fmt.Sprintf("%d of %d, for example: %s",
			failed.n, p.Episodes(), failed.why))
	}
	if err == nil && failed.cancelled > 0 {
		text := fmt.Sprintf("%d of %d episodes were past their deadline of %g s, and the quorum does not need them",
			failed.cancelled, p.Episodes(), s.rollout.DeadlineSeconds)
		s.runner.log.Warn().Int64("step", p.Step).Msg(text)
		err = s.ledger.Event(ctx, p.Step, eventCancelled, text)
	}
	return sampled, err
}

// eventCancelled is the kind of the event for episodes that a step did not wait for.
const eventCancelled = "episodes cancelled"

// missing lists the episodes of the plan that are not among groups.
func (s sampleStage) missing(ctx context.Context, p Planned, policy sampler.Policy, groups [][]rollout.Trajectory) (
	[]rollout.EpisodeSpec, error) {
	limit, err := s.budget.episodePrompt(ctx, s.runner.driverFor(p.prompt), p.tasks(), s.rollout.MaxTokens,
		s.reflects)
	if err != nil {
		return nil, err
	}
	var specs []rollout.EpisodeSpec
	for g, group := range p.Groups {
		for e, episode := range group.Episodes {
			if groups[g][e].Stop != "" {
				continue
			}
			spec := rollout.EpisodeSpec{
				Task: group.Task, Step: p.Step, Group: g, Episode: e, Seed: episode.Seed, Policy: policy, Newest: s.newest,
				Temperature: s.rollout.Temperature, TopP: s.rollout.TopP, TopK: s.rollout.TopK, Stop: s.rollout.Stop,
				MaxTurns: s.rollout.MaxTurns, MaxTokens: s.rollout.MaxTokens,
				MaxPrompt: limit, Keep: s.keep,
			}
			if episode.Mode.Tips() {
				spec.Recall, spec.Choose, spec.Candidates = s.recall, s.choose.by, s.choose.candidates
			}
			specs = append(specs, spec)
		}
	}
	return specs, nil
}

// failures counts episodes that failed after all retries.
type failures struct {
	n         int
	why       string // of the first
	cancelled int    // episodes that the step did not wait for
}

// play samples specs into groups. A finished episode is stored before it is
// reflected upon, even while ctx ends. A failed episode is stored apart: a
// continued run samples it again.
func (s sampleStage) play(ctx context.Context, p Planned, specs []rollout.EpisodeSpec, groups [][]rollout.Trajectory,
	reflect reflectFunc) (failures, error) {
	ctx, cancel := context.WithCancelCause(ctx) // an error of the ledger ends the sampling
	defer cancel(nil)
	sampling, closeStep := context.WithCancelCause(ctx)
	defer closeStep(nil)
	late := newStragglers(s.rollout, p.Episodes(), p.Episodes()-len(specs), func() { closeStep(rollout.ErrNotAwaited) })
	defer late.stop()
	defer s.runner.gate.watch(late.gate)()
	s.runner.late = late
	var mu sync.Mutex
	var failed failures
	after := errgroup.Group{} // storage and reflection, while other episodes still run
	after.SetLimit(s.runner.concurrency)
	played := stepProgress{progress: s.progress, step: p.Step, left: len(specs), episodes: p.Episodes(),
		reflects: s.reflects && !s.reflectAfter, done: p.Episodes() - len(specs)}
	s.runner.run(sampling, p.prompt, specs, func(t rollout.Trajectory) {
		played.episode(ctx)
		late.end(t)
		after.Go(func() error {
			if err := s.finish(ctx, p.Plan, &t, reflect); err != nil {
				cancel(err)
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			played.finished()
			switch t.Stop {
			case rollout.StopFailed:
				failed.n++
				failed.why = cmp.Or(failed.why, t.Err)
			case rollout.StopCancelled:
				failed.cancelled++
			}
			groups[t.Group][t.Episode] = t
			return nil
		})
	})
	return failed, after.Wait()
}

// finish stores an episode and has it reflected upon, unless that is done after the
// last one.
func (s sampleStage) finish(ctx context.Context, plan Plan, t *rollout.Trajectory, reflect reflectFunc) error {
	if t.Failed() && ctx.Err() != nil { // it failed because the run ends
		return nil
	}
	if err := s.store(context.WithoutCancel(ctx), plan, *t); err != nil || t.Failed() || s.reflectAfter {
		return err
	}
	return reflect(ctx, t)
}

// finished loads the episodes of the plan that are in the ledger. The others
// are zero. If a later step was begun, those that failed or were cancelled are
// loaded, too: episodes of the later step have seen a memory without them.
func (s sampleStage) finished(ctx context.Context, plan Plan) ([][]rollout.Trajectory, error) {
	groups := make([][]rollout.Trajectory, len(plan.Groups))
	for g := range groups {
		groups[g] = make([]rollout.Trajectory, len(plan.Groups[g].Episodes))
	}
	stored, err := s.ledger.Episodes(ctx, plan.Step)
	if err != nil {
		return nil, err
	}
	for _, e := range stored {
		if e.Group >= len(groups) || e.Episode >= len(groups[e.Group]) {
			return nil, fmt.Errorf("run.db holds episode %d/%d of step %d, which is not in its plan",
				e.Group, e.Episode, e.Step)
		}
		if groups[e.Group][e.Episode], err = EpisodeOf(e); err != nil {
			return nil, err
		}
	}
	return groups, s.givenUp(ctx, plan, groups)
}

// givenUp adds the episodes that failed or were cancelled, if a later step was begun.
func (s sampleStage) givenUp(ctx context.Context, plan Plan, groups [][]rollout.Trajectory) error {
	later, err := s.ledger.Plan(ctx, plan.Step+1)
	if err != nil || later == nil {
		return err
	}
	for _, kind := range []string{ledger.KindFailed, ledger.KindCancelled} {
		stored, err := s.ledger.Untrained(ctx, kind, plan.Step)
		if err != nil {
			return err
		}
		for _, e := range stored {
			if e.Group >= len(groups) || e.Episode >= len(groups[e.Group]) || groups[e.Group][e.Episode].Stop != "" {
				continue
			}
			if groups[e.Group][e.Episode], err = EpisodeOf(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// reflectLate reflects upon the stored episodes that have no tip yet. If a later step was
// begun, they stay without: its episodes have seen the tips under the ids that they have
// if no other is written.
func (s sampleStage) reflectLate(ctx context.Context, step int64, groups [][]rollout.Trajectory,
	reflect reflectFunc) error {
	if later, err := s.ledger.Plan(ctx, step+1); err != nil || later != nil {
		return err
	}
	var without []*rollout.Trajectory
	for g := range groups {
		for e := range groups[g] {
			if t := &groups[g][e]; t.Stop != "" && !t.Failed() && t.TipIDs == nil {
				without = append(without, t)
			}
		}
	}
	if s.reflectAfter && s.reflects {
		s.progress.begin(ctx, watchdog.Phase{Name: watchdog.PhaseReflection, Step: step, Total: len(without), Unit: "tips"})
	}
	late := errgroup.Group{}
	late.SetLimit(s.runner.concurrency)
	for _, t := range without {
		late.Go(func() error {
			defer s.progress.add(watchdog.PhaseReflection, 1)
			return reflect(ctx, t)
		})
	}
	return late.Wait()
}

func (s sampleStage) store(ctx context.Context, plan Plan, t rollout.Trajectory) error {
	record, err := storedEpisode(t, plan.Groups[t.Group].Episodes[t.Episode].Mode)
	if err != nil {
		return err
	}
	switch t.Stop {
	case rollout.StopFailed:
		record.Kind = ledger.KindFailed
	case rollout.StopCancelled:
		record.Kind = ledger.KindCancelled
	}
	return s.ledger.AddEpisode(ctx, record)
}

// storedEpisode returns an episode as the ledger stores it.
func storedEpisode(t rollout.Trajectory, mode Mode) (ledger.Episode, error) {
	p, err := rollout.Pack(t)
	if err != nil {
		return ledger.Episode{}, fmt.Errorf("encode episode %d/%d: %w", t.Group, t.Episode, err)
	}
	return ledger.Episode{
		Step: t.Step, Group: t.Group, Episode: t.Episode, Task: t.Task.ID, Mode: string(mode),
		Version: t.Policy.Version, Stop: string(t.Stop), EnvReturn: t.EnvReturn, Score: t.Score, Success: t.Success,
		At: time.Now().UTC().Format(time.RFC3339Nano), Trajectory: p.JSON, Tokens: p.Tokens, Logprobs: p.Logprobs,
		Facts: factsOf(t),
	}, nil
}

// UntrainedEpisode returns an episode that is not trained as the ledger stores it.
func UntrainedEpisode(t rollout.Trajectory, kind string) (ledger.Episode, error) {
	mode := OnPolicy
	if t.Memory {
		mode = OnPolicyTips
	}
	record, err := storedEpisode(t, mode)
	record.Kind = kind
	return record, err
}

// EpisodeOf returns a stored episode.
func EpisodeOf(e ledger.Episode) (rollout.Trajectory, error) {
	t, err := rollout.Unpack(rollout.Packed{JSON: e.Trajectory, Tokens: e.Tokens, Logprobs: e.Logprobs})
	if err != nil {
		return t, fmt.Errorf("episode %d/%d of step %d in run.db: %w", e.Group, e.Episode, e.Step, err)
	}
	return t, nil
}

// RecallFrom asks a memory in the driver's terms; nil without a memory.
func RecallFrom(m memory.Strategy) rollout.RecallFunc {
	if m == nil {
		return nil
	}
	return recallBy(m.Recall)
}

// A choice says who chooses among the policy's proposals, and how many there are.
type choice struct {
	by         rollout.ChooseFunc // nil: the policy's one reply counts
	candidates int
}

// choiceOf returns the choice of a memory. Most memories do not choose.
func choiceOf(m memory.Strategy, candidates int) choice {
	chooser, ok := m.(memory.Chooser)
	if !ok {
		return choice{}
	}
	by := func(ctx context.Context, q rollout.Query, c []rollout.Candidate) (string, error) {
		proposed := make([]memory.Candidate, len(c))
		for i := range c {
			proposed[i] = memory.Candidate{Action: c[i].Action, Logprob: c[i].Logprob}
		}
		return chooser.Choose(ctx, memory.State{Scope: q.Scope, Text: q.State, Seed: q.Seed}, proposed)
	}
	return choice{candidates: candidates, by: by}
}

// recallBy asks a memory, or a snapshot of it, in the driver's terms.
func recallBy(recall memory.RecallFunc) rollout.RecallFunc {
	return func(ctx context.Context, q rollout.Query) (rollout.Recalled, error) {
		r, err := recall(ctx, memory.State{Scope: q.Scope, Text: q.State, Seed: q.Seed})
		if err != nil {
			return rollout.Recalled{}, err
		}
		out := rollout.Recalled{Similar: r.Similar}
		for _, tip := range r.Tips {
			author := fmt.Sprintf("%d/%d/%d", tip.Step, tip.Group, tip.Episode)
			out.Tips = append(out.Tips, prompt.Tip{ID: tip.ID, Text: tip.Text, Author: author})
		}
		return out, nil
	}
}
