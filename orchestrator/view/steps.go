package view

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// Step is a step with the evaluations after it.
type Step struct {
	orchestrator.StepMetrics
	Evaluations []orchestrator.Evaluation `json:"evaluations,omitempty"`
}

// Steps returns the committed steps in order. If the version before the first step
// was evaluated, the first element is step 0.
func (r *Run) Steps(ctx context.Context) ([]Step, error) {
	history, err := orchestrator.History(ctx, r.ledger)
	if err != nil {
		return nil, err
	}
	evaluations, err := r.evaluations(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Step, 0, len(history)+1)
	if len(evaluations) > 0 && evaluations[0].Step == 0 {
		out = append(out, Step{})
	}
	for _, m := range history {
		out = append(out, Step{StepMetrics: m})
	}
	at := map[int64]*Step{}
	for i := range out {
		at[out[i].Step] = &out[i]
	}
	for _, e := range evaluations {
		if s := at[e.Step]; s != nil {
			s.Evaluations = append(s.Evaluations, e)
		}
	}
	return out, nil
}

// Evaluations returns all evaluations by step.
func (r *Run) Evaluations(ctx context.Context) ([]orchestrator.Evaluation, error) {
	return r.evaluations(ctx)
}

// StepsAfter calls yield with the committed steps after a step, in order.
func (r *Run) StepsAfter(ctx context.Context, step int64, yield func(orchestrator.StepMetrics)) error {
	steps, err := r.ledger.StepsAfter(ctx, step)
	if err != nil {
		return err
	}
	for _, s := range steps {
		var m orchestrator.StepMetrics
		if err := json.Unmarshal(s.Metrics, &m); err != nil {
			return fmt.Errorf("metrics of step %d in run.db: %w", s.Step, err)
		}
		yield(m)
	}
	return nil
}

// Last returns the number of the newest committed step, and the version after it.
func (r *Run) Last(ctx context.Context) (step int64, version int, err error) {
	last, err := r.ledger.Last(ctx)
	return last.Step, last.Version, err
}

// Events returns the newest events in order. limit is their largest number.
func (r *Run) Events(ctx context.Context, limit int) ([]ledger.Event, error) {
	return r.ledger.Events(ctx, limit)
}

// NewestUntrained grows with each episode that is not trained.
func (r *Run) NewestUntrained(ctx context.Context) (int64, error) {
	return r.ledger.NewestUntrained(ctx)
}

// Newest changes when the run has a new step, evaluation or event.
func (r *Run) Newest(ctx context.Context) (string, error) { return r.ledger.Newest(ctx) }

// Prompt returns the newest prompt template of the run; empty: it is not known.
func (r *Run) Prompt(ctx context.Context) (string, error) {
	newest, err := r.ledger.LastEvent(ctx, "prompt") // its name and its checksum
	if err != nil || newest == "" {
		return "", err
	}
	return r.ledger.Prompt(ctx, newest[strings.LastIndexByte(newest, ' ')+1:])
}

// Unfinished is a step that is planned and not committed.
type Unfinished struct {
	Step     int64 `json:"step"`
	Episodes int   `json:"episodes"` // finished
	Planned  int   `json:"planned"`
}

// Unfinished returns the step after the last committed one; nil if it is not
// planned.
func (r *Run) Unfinished(ctx context.Context) (*Unfinished, error) {
	last, err := r.ledger.Last(ctx)
	if err != nil {
		return nil, err
	}
	text, err := r.ledger.Plan(ctx, last.Step+1)
	if err != nil || text == nil {
		return nil, err
	}
	var plan orchestrator.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return nil, fmt.Errorf("the plan of step %d in run.db: %w", last.Step+1, err)
	}
	done, err := r.ledger.CountBetween(ctx, last.Step, plan.Step)
	return &Unfinished{Step: plan.Step, Episodes: done, Planned: plan.Episodes()}, err
}
