package orchestrator

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/rollout"
)

// commitTimeout bounds a commit, the memory included.
const commitTimeout = 5 * time.Minute

// finishedStep is everything that a step has produced.
type finishedStep struct {
	begun     time.Time
	before    state
	planned   Planned
	sampled   Sampled
	batch     Batch
	update    *Update // nil: nothing was trained
	leftOut   int     // rows that the trainer refused
	diverging []string
	published Published
	phases    []PhaseRecord
	late      int // requests that a second replica got too
	// sampling measures how long other steps were sampled meanwhile. Nil: none was.
	sampling *busyClock
}

// Committed is a step that is in the ledger.
type Committed struct {
	Metrics StepMetrics
	state   state // that the next step begins with
}

// commitStage commits a step: its metrics, its version and what the memory
// learns are one transaction.
type commitStage struct {
	ledger        *ledger.Ledger
	memory        memory.Strategy // nil: no memory
	keep          int             // checkpoints to keep
	noveltyWeight float64
	retention     retention
	log           zerolog.Logger
}

// run commits the step and removes old checkpoints. An interrupt waits for it,
// because the update has already been paid for.
func (s commitStage) run(ctx context.Context, f finishedStep) (Committed, error) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitTimeout,
		errors.New("the commit took too long"))
	defer cancel()
	if err := s.learn(ctx, f.sampled); err != nil {
		return Committed{}, err
	}
	m := newStepMetrics(f, s.noveltyWeight)
	text, err := json.Marshal(m)
	if err != nil {
		return Committed{}, err
	}
	finish := func(bool) {} // ends the memory's part
	step := ledger.Step{Step: f.planned.Step, Version: m.Version, Metrics: text,
		Estimates: f.batch.estimates(f.update)}
	err = s.ledger.Commit(ctx, step, f.published.Version, func(tx *sql.Tx) error {
		if s.memory == nil {
			return nil
		}
		done, err := s.memory.Commit(ctx, tx)
		if err == nil {
			finish = done
		}
		return err
	})
	finish(err == nil)
	if err != nil {
		return Committed{}, err
	}
	next := state{
		step: m.Step, policy: f.published.Policy, versions: f.before.withVersion(f.published.Policy.Version),
		episodes:     m.Episodes,
		trainSeconds: f.before.trainSeconds + m.Seconds.Total, prompt: f.planned.prompt,
		recent: f.before.with(m),
	}
	if next.lost, err = s.lostCheckpoint(ctx, f); err != nil {
		return Committed{}, err
	}
	// The last good version stays while the training may diverge.
	if err := s.retention.run(ctx, m.Step); err != nil {
		return Committed{}, err
	}
	return Committed{Metrics: m, state: next}, s.ledger.Prune(ctx, s.keep+next.diverging())
}

// eventLost is the kind of the event for a checkpoint that another program removed.
const eventLost = "checkpoint missing"

// lostCheckpoint warns if the checkpoint that the step began with was removed. It
// returns the version that was reported last.
func (s commitStage) lostCheckpoint(ctx context.Context, f finishedStep) (int, error) {
	version := f.before.policy.Version
	if f.before.lost == version || s.ledger.HasCheckpoint(version) {
		return f.before.lost, nil
	}
	cost := fmt.Sprintf("--from-step cannot return to version %d", version)
	if f.published.Version == nil {
		cost = "a restart fails until the next version is committed"
	}
	text := fmt.Sprintf("another program removed the checkpoint of version %d in %s: %s; "+
		"find out what removes files there, and copy the checkpoint back from a backup", version, s.ledger.Dir, cost)
	s.log.Warn().Int64("step", f.planned.Step).Int("version", version).Msg(text)
	return version, s.ledger.Event(ctx, f.planned.Step, eventLost, text)
}

// learn hands the step's episodes to the memory, in the plan's order, so that
// what it learns does not depend on the order in which they finished.
func (s commitStage) learn(ctx context.Context, in Sampled) error {
	if s.memory == nil {
		return nil
	}
	for _, x := range experiencesOf(in) {
		if err := s.memory.Learn(ctx, x); err != nil {
			return fmt.Errorf("learn episode %d/%d: %w", x.Tip.Group, x.Tip.Episode, err)
		}
	}
	return nil
}

// experiencesOf returns the episodes of a step in the memory's terms, in the plan's order.
func experiencesOf(in Sampled) (out []memory.Experience) {
	for g, group := range in.Groups {
		without := returnWithoutTips(group)
		for e, t := range group {
			if t.Failed() {
				continue
			}
			x := experienceOf(t, in.Plan.Groups[g].Task.Scope)
			x.Tip.Step, x.Tip.Group, x.Tip.Episode = in.Plan.Step, g, e
			x.WithoutTips = without
			out = append(out, x)
		}
	}
	return out
}

// experienceOf returns an episode in the memory's terms.
func experienceOf(t rollout.Trajectory, scope string) memory.Experience {
	x := memory.Experience{
		Scope: scope, States: t.States(), Return: t.EnvReturn, Success: t.Success, Memory: t.Memory,
		Tip: memory.Tip{Text: t.Tip, Score: t.Score, Version: t.TipVersion},
	}
	for _, turn := range t.Turns {
		y := memory.Turn{Action: turn.TakenAction(), Reward: turn.Reward}
		for _, tip := range turn.Tips {
			y.Shown = append(y.Shown, tip.ID)
		}
		x.Turns = append(x.Turns, y)
	}
	return x
}

// returnWithoutTips returns the mean return of the episodes that were shown no tip,
// nil if there are none.
func returnWithoutTips(group []rollout.Trajectory) *float64 {
	sum, n := 0.0, 0.0
	for _, t := range group {
		shown := slices.ContainsFunc(t.Turns, func(turn rollout.Turn) bool { return len(turn.Tips) > 0 })
		if !t.Failed() && !shown {
			sum, n = sum+t.EnvReturn, n+1
		}
	}
	if n == 0 {
		return nil
	}
	sum /= n
	return &sum
}
