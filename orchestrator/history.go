package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/empo2/empo2/orchestrator/ledger"
)

// Summary is the outcome of a run.
type Summary struct {
	Steps       int64         `json:"steps"`
	Version     int           `json:"version"`
	Episodes    int           `json:"episodes"`
	Seconds     float64       `json:"seconds"` // training, without evaluations
	Evaluations []Evaluation  `json:"evaluations"`
	History     []StepMetrics `json:"-"`
}

// History returns the metrics of all committed steps.
func History(ctx context.Context, led *ledger.Ledger) ([]StepMetrics, error) {
	steps, err := led.Steps(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]StepMetrics, len(steps))
	for i, s := range steps {
		if err := json.Unmarshal(s.Metrics, &out[i]); err != nil {
			return nil, fmt.Errorf("metrics of step %d in run.db: %w", s.Step, err)
		}
	}
	return out, nil
}

// Summarize reads the outcome of a run from its ledger.
func Summarize(ctx context.Context, led *ledger.Ledger) (Summary, error) {
	history, err := History(ctx, led)
	if err != nil {
		return Summary{}, err
	}
	s := Summary{History: history}
	for _, m := range history {
		s.Steps, s.Version, s.Episodes, s.Seconds = m.Step, m.Version, m.Episodes, s.Seconds+m.Seconds.Total
	}
	evaluations, err := led.Evaluations(ctx)
	for _, text := range evaluations {
		var e Evaluation
		err = errors.Join(err, json.Unmarshal(text, &e))
		s.Evaluations = append(s.Evaluations, e)
	}
	return s, err
}
