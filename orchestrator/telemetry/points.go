package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// A Point has the values of a step, or of an evaluation after a step.
type Point struct {
	Step   int64
	At     time.Time
	Values []Value
}

// Run is what is written of a run.
type Run struct {
	Name   string
	Config string // TOML
	Points []Point
}

// Read reads a run. It may be running. Evaluations follow the step that they come after.
func Read(ctx context.Context, led *ledger.Ledger, name, scheme string) (Run, error) {
	out := Run{Name: name}
	var err error
	if out.Config, err = led.Config(ctx); err != nil {
		return out, err
	}
	steps, err := led.Steps(ctx)
	if err != nil {
		return out, err
	}
	at := map[int64]time.Time{}
	for _, s := range steps {
		var m orchestrator.StepMetrics
		if err := json.Unmarshal(s.Metrics, &m); err != nil {
			return out, fmt.Errorf("metrics of step %d in run.db: %w", s.Step, err)
		}
		if at[s.Step], err = time.Parse(time.RFC3339Nano, s.At); err != nil {
			return out, fmt.Errorf("time of step %d in run.db: %w", s.Step, err)
		}
		if s.Step == steps[0].Step { // the version before it has no time of its own
			at[s.Step-1] = at[s.Step].Add(-time.Duration(m.Seconds.Total * float64(time.Second)))
		}
		out.Points = append(out.Points, Point{s.Step, at[s.Step], ofStep(m, scheme)})
	}
	evaluations, err := led.Evaluations(ctx)
	if err != nil {
		return out, err
	}
	for _, text := range evaluations {
		var e orchestrator.Evaluation
		if err := json.Unmarshal(text, &e); err != nil {
			return out, fmt.Errorf("an evaluation in run.db: %w", err)
		}
		out.Points = append(out.Points, Point{e.Step, at[e.Step], ofEvaluation(e)})
	}
	slices.SortStableFunc(out.Points, func(a, b Point) int { return int(a.Step - b.Step) })
	return out, nil
}

// rows returns one point per step: evaluations are added to their steps.
func (r Run) rows() []Point {
	var out []Point
	for _, p := range r.Points {
		if n := len(out); n > 0 && out[n-1].Step == p.Step {
			out[n-1].Values = slices.Concat(out[n-1].Values, p.Values)
			continue
		}
		out = append(out, p)
	}
	return out
}

// names are the names of all values, in the order in which they appear first.
func (r Run) names() []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range r.Points {
		for _, v := range p.Values {
			if !seen[v.Name] {
				seen[v.Name] = true
				out = append(out, v.Name)
			}
		}
	}
	return out
}
