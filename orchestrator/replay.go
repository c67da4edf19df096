package orchestrator

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/rollout"
)

// An importer is a memory that tips can be imported into.
type importer interface {
	Import(ctx context.Context, r io.Reader, with func(*sql.Tx) error) (tips int, err error)
}

// Replay teaches an empty memory everything that a run has learnt: the episodes of
// its committed steps, and what was imported. The memory then equals the run's
// own. It may be in the run's database.
func Replay(ctx context.Context, run *ledger.Ledger, m memory.Strategy, db *sql.DB) error {
	imports, _, err := run.Imports(ctx)
	if err != nil {
		return err
	}
	steps, err := run.Steps(ctx)
	if err != nil {
		return err
	}
	importUntil := func(step int64) error {
		for ; len(imports) > 0 && imports[0].Step <= step; imports = imports[1:] {
			bank, ok := m.(importer)
			if !ok {
				return fmt.Errorf("tips were imported after step %d, but the memory %T takes none", imports[0].Step, m)
			}
			if _, err := bank.Import(ctx, strings.NewReader(imports[0].Records), nil); err != nil {
				return fmt.Errorf("imports after step %d: %w", imports[0].Step, err)
			}
		}
		return nil
	}
	for _, s := range steps {
		if err := importUntil(s.Step - 1); err != nil {
			return err
		}
		if err := replayStep(ctx, run, m, db, s.Step); err != nil {
			return fmt.Errorf("step %d: %w", s.Step, err)
		}
	}
	if len(steps) == 0 {
		return importUntil(0)
	}
	return importUntil(steps[len(steps)-1].Step)
}

// replayStep learns the episodes of one step as its commit did.
func replayStep(ctx context.Context, run *ledger.Ledger, m memory.Strategy, db *sql.DB, step int64) error {
	sampled, err := storedStep(ctx, run, step)
	if err != nil {
		return err
	}
	if err := (commitStage{memory: m}).learn(ctx, sampled); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	done, err := m.Commit(ctx, tx)
	if err == nil {
		err = tx.Commit()
	}
	done(err == nil)
	return err
}

// storedStep returns the plan and the episodes of a committed step. Episodes that
// failed are not among them.
func storedStep(ctx context.Context, run *ledger.Ledger, step int64) (Sampled, error) {
	var out Sampled
	text, err := run.Plan(ctx, step)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(text, &out.Plan); err != nil {
		return out, fmt.Errorf("its plan: %w", err)
	}
	if out.Groups, err = (sampleStage{ledger: run}).finished(ctx, out.Plan); err != nil {
		return out, err
	}
	for g := range out.Groups {
		for e := range out.Groups[g] {
			if t := &out.Groups[g][e]; t.Stop == "" {
				t.Stop = rollout.StopFailed
			}
		}
	}
	return out, nil
}
