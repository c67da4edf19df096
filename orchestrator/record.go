package orchestrator

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/empo2/empo2/envs"
)

// recordEnvironment records what the environment's scores rest on, and when
// that changed: scores before and after do not compare.
func (l *Loop) recordEnvironment(ctx context.Context, step int64) error {
	family, ok := l.Family.(envs.Recorded)
	if !ok {
		return nil
	}
	text, err := json.Marshal(family.Record())
	if err != nil {
		return fmt.Errorf("encode the record of %s: %w", l.Family.Name(), err)
	}
	l.environment = text
	before, err := l.Ledger.LastEvent(ctx, "environment")
	if err != nil || before == string(text) {
		return err
	}
	if before != "" {
		l.Log.Warn().Int64("step", step).Str("before", before).RawJSON("now", text).Msg("the environment is another one than before: scores do not compare")
	}
	return l.Ledger.Event(ctx, step, "environment", string(text))
}
