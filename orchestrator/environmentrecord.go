package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/empo2/empo2/envs"
)

// recordEnvironment returns the environment's record of what its scores
// depend on, nil if it has none. It stores the record as an event when it has
// changed, because scores before and after the change are not comparable.
func (l *Loop) recordEnvironment(ctx context.Context, step int64) (json.RawMessage, error) {
	family, ok := l.Family.(envs.Recorded)
	if !ok {
		return nil, nil
	}
	text, err := json.Marshal(family.Record())
	if err != nil {
		return nil, fmt.Errorf("encode the record of %s: %w", l.Family.Name(), err)
	}
	before, err := l.Ledger.LastEvent(ctx, "environment")
	if err != nil || before == string(text) {
		return text, err
	}
	if before != "" {
		l.Log.Warn().Int64("step", step).Str("env", l.Family.Name()).
			Msgf("the environment has changed from %s to %s: scores before and after are not comparable", before, text)
	}
	return text, l.Ledger.Event(ctx, step, "environment", string(text))
}
