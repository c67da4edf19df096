package orchestrator

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// sample runs the plan's episodes that the ledger does not hold yet, lets
// each be reflected upon, and makes each durable as soon as it is finished.
// It returns all of them by group and number.
func (l *Loop) sample(ctx context.Context, plan Plan) ([][]rollout.Trajectory, error) {
	groups, err := l.finishedEpisodes(ctx, plan)
	if err != nil {
		return nil, err
	}
	if err := l.reserveTip(ctx, plan); err != nil {
		return nil, err
	}
	var specs []rollout.EpisodeSpec
	for g, group := range plan.Groups {
		for e, episode := range group.Episodes {
			if groups[g][e].Stop == "" {
				specs = append(specs, l.spec(plan, g, e, group, episode))
			}
		}
	}
	if err := l.reflectLate(ctx, groups); err != nil || len(specs) == 0 {
		return groups, err
	}
	failed, err := l.run(ctx, plan, specs, groups)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil && 2*failed.n > plan.Episodes() {
		err = fmt.Errorf("%d of %d episodes failed, for example: %s\n  hint: the step is not committed; cure the cause and run the same command again", failed.n, plan.Episodes(), failed.why)
	}
	return groups, err
}

// failures counts episodes that were lost for good.
type failures struct {
	n   int
	why string // of the first
}

// run samples specs into groups. A finished episode is durable before it is
// reflected upon, also while ctx ends; a failed one is not stored, so that a
// continued run samples it again.
func (l *Loop) run(ctx context.Context, plan Plan, specs []rollout.EpisodeSpec, groups [][]rollout.Trajectory) (failures, error) {
	ctx, cancel := context.WithCancelCause(ctx) // a store that fails ends the sampling
	defer cancel(nil)
	var mu sync.Mutex
	var lost failures
	after := errgroup.Group{} // storage and reflection, beside the episodes still running
	after.SetLimit(l.Config.Rollout.Concurrency)
	l.scheduler().Sample(ctx, specs, func(t rollout.Trajectory) {
		after.Go(func() error {
			if !t.Failed() {
				if err := l.store(context.WithoutCancel(ctx), plan, t); err != nil {
					cancel(err)
					return err
				}
				if err := l.reflect(ctx, &t); err != nil {
					cancel(err)
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if t.Failed() {
				lost.n++
				lost.why = cmp.Or(lost.why, t.Err)
			}
			groups[t.Group][t.Episode] = t
			return nil
		})
	})
	return lost, after.Wait()
}

func (l *Loop) scheduler() *rollout.Scheduler {
	return &rollout.Scheduler{Run: l.Driver.Run, MaxEpisodes: l.Config.Rollout.Concurrency, Retries: l.Config.Rollout.Retries, Log: l.Log}
}

// finishedEpisodes loads what a killed run had finished of this step.
func (l *Loop) finishedEpisodes(ctx context.Context, plan Plan) ([][]rollout.Trajectory, error) {
	groups := make([][]rollout.Trajectory, len(plan.Groups))
	for g := range groups {
		groups[g] = make([]rollout.Trajectory, len(plan.Groups[g].Episodes))
	}
	stored, err := l.Ledger.Episodes(ctx, plan.Step)
	if err != nil {
		return nil, err
	}
	for _, e := range stored {
		if e.Group >= len(groups) || e.Episode >= len(groups[e.Group]) {
			return nil, fmt.Errorf("run.db holds episode %d/%d of step %d, which is not in its plan", e.Group, e.Episode, e.Step)
		}
		if err := json.Unmarshal(e.Trajectory, &groups[e.Group][e.Episode]); err != nil {
			return nil, fmt.Errorf("episode %d/%d of step %d in run.db: %w", e.Group, e.Episode, e.Step, err)
		}
	}
	return groups, nil
}

func (l *Loop) spec(plan Plan, g, e int, group GroupPlan, episode EpisodePlan) rollout.EpisodeSpec {
	spec := rollout.EpisodeSpec{
		Task: group.Task, Step: plan.Step, Group: g, Episode: e, Seed: episode.Seed, Policy: l.policy,
		Temperature: l.Config.Rollout.Temperature, TopP: l.Config.Rollout.TopP, TopK: l.Config.Rollout.TopK,
		Stop: l.Config.Rollout.Stop, MaxSteps: l.Config.Rollout.MaxTurns,
		MaxTokens: l.Config.Rollout.MaxTokens, MaxPrompt: l.maxPrompt(l.Config.Rollout.MaxTokens + l.tipRoom),
		Keep: rollout.Keep(l.Config.Memory.Keep),
	}
	if episode.Mode.Tips() && l.Memory != nil {
		spec.Recall = l.recall
	}
	return spec
}

// maxPrompt is the longest prompt that leaves room for so many tokens; 0 if the
// server names no limit.
func (l *Loop) maxPrompt(tokens int) int {
	if l.context == 0 {
		return 0
	}
	return max(1, l.context-tokens)
}

// recall asks the memory on the driver's behalf.
func (l *Loop) recall(ctx context.Context, scope, state string) (rollout.Recalled, error) {
	r, err := l.Memory.Recall(ctx, memory.State{Scope: scope, Text: state})
	if err != nil {
		return rollout.Recalled{}, err
	}
	out := rollout.Recalled{Similar: r.Similar}
	for _, tip := range r.Tips {
		out.Tips = append(out.Tips, prompt.Tip{ID: tip.ID, Text: tip.Text})
	}
	return out, nil
}

// reflect lets the policy (or the base) write its tip and stores it. A
// reflection that fails costs the tip, never the episode.
func (l *Loop) reflect(ctx context.Context, t *rollout.Trajectory) error {
	if l.Memory == nil || ctx.Err() != nil {
		return context.Cause(ctx)
	}
	by := l.policy
	if l.Config.Reflection.By == "base" {
		by = l.base
	}
	err := l.reflectInRoom(ctx, t, by, rollout.ReflectSpec{
		Temperature: l.Config.Reflection.Temperature, MaxTokens: l.Config.Reflection.MaxTokens,
		MaxPrompt: l.maxPrompt(l.Config.Reflection.MaxTokens), Seed: childSeed(t.Seed, "reflect"),
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		l.Log.Warn().Err(err).Int64("step", t.Step).Int("group", t.Group).Int("episode", t.Episode).Msg("no tip")
		return nil
	}
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode episode %d/%d: %w", t.Group, t.Episode, err)
	}
	return l.Ledger.UpdateEpisode(context.WithoutCancel(ctx), t.Step, t.Group, t.Episode, text)
}

// reflectLate writes the tips of stored episodes that a killed run had not
// reflected upon yet.
func (l *Loop) reflectLate(ctx context.Context, groups [][]rollout.Trajectory) error {
	late := errgroup.Group{}
	late.SetLimit(l.Config.Rollout.Concurrency)
	for g := range groups {
		for e := range groups[g] {
			if t := &groups[g][e]; t.Stop != "" && t.TipIDs == nil {
				late.Go(func() error { return l.reflect(ctx, t) })
			}
		}
	}
	return late.Wait()
}

func (l *Loop) store(ctx context.Context, plan Plan, t rollout.Trajectory) error {
	text, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode episode %d/%d: %w", t.Group, t.Episode, err)
	}
	return l.Ledger.AddEpisode(ctx, ledger.Episode{
		Step: plan.Step, Group: t.Group, Episode: t.Episode, Task: t.Task.ID,
		Mode: string(plan.Groups[t.Group].Episodes[t.Episode].Mode), Version: t.Policy.Version,
		Stop: string(t.Stop), EnvReturn: t.EnvReturn, Score: t.Score, Success: t.Success, Trajectory: text,
	})
}

// learn hands the step's episodes to the memory, in the plan's order, so that
// what is learnt does not depend on who finished first.
func (l *Loop) learn(ctx context.Context, plan Plan, groups [][]rollout.Trajectory) error {
	if l.Memory == nil {
		return nil
	}
	for g, group := range groups {
		for e, t := range group {
			if t.Failed() {
				continue
			}
			x := memory.Experience{Scope: plan.Groups[g].Task.Scope, Tip: memory.Tip{
				Text: t.Tip, Score: t.Score, Step: plan.Step, Group: g, Episode: e, Version: t.TipVersion,
			}}
			x.States = t.States()
			if err := l.Memory.Learn(ctx, x); err != nil {
				return fmt.Errorf("learn episode %d/%d: %w", g, e, err)
			}
		}
	}
	return nil
}

// bonus is λ·Σ_t 1/n_t with n = 1 + similar entries (EMPO², section 4.1), over
// the turns at which the memory was asked.
func bonus(t rollout.Trajectory, weight float64) float64 {
	sum := 0.0
	for _, turn := range t.Turns {
		if turn.Similar >= 0 {
			sum += weight / float64(1+turn.Similar)
		}
	}
	return sum
}

// describe fills the part of the metrics that speaks of episodes.
func describe(m *StepMetrics, plan Plan, groups [][]rollout.Trajectory, weight float64) {
	for g, group := range groups {
		for e, t := range group {
			mode := plan.Groups[g].Episodes[e].Mode
			m.Modes[mode]++
			m.Stops[t.Stop]++
			if t.Failed() {
				m.Failed++
				continue
			}
			if t.Tip != "" {
				m.NewTips++
			}
			r := &m.Free
			if mode.Tips() {
				r = &m.Tips
			}
			add(r, t, weight)
		}
	}
	finish(&m.Free)
	finish(&m.Tips)
}

func add(r *Rollouts, t rollout.Trajectory, weight float64) {
	r.N++
	r.Return += t.EnvReturn
	r.Bonus += bonus(t, weight)
	r.Score += t.Score
	r.Turns += float64(len(t.Turns))
	if t.Success {
		r.Success++
	}
	for _, turn := range t.Turns {
		r.TipsShown += float64(len(turn.Tips))
	}
}

func finish(r *Rollouts) {
	n := float64(max(r.N, 1))
	for _, v := range []*float64{&r.Return, &r.Bonus, &r.Score, &r.Success, &r.Turns, &r.TipsShown} {
		*v /= n
	}
}
