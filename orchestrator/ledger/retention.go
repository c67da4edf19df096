package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
)

// slimKey is the entry of the table meta that holds the newest step whose episodes
// were slimmed.
const slimKey = "slimmed"

// Slim makes the episodes of steps up to a step smaller: slim returns what stays of a
// training episode. Episodes that are not trained are removed, and so are the
// trainer's log-probs. Each step is one transaction. At most limit steps are slimmed,
// the oldest first. Steps that were slimmed before are not read again.
//
// The rows of a step are removed and added again: rows that shrink in their place leave
// pages that are half empty for ever. Removed rows leave whole pages, which later
// episodes fill.
func (l *Ledger) Slim(ctx context.Context, until int64, limit int, slim func(Episode) (Episode, error)) error {
	done, err := l.slimmed(ctx)
	if err != nil {
		return err
	}
	for step := done + 1; step <= min(until, done+int64(limit)); step++ {
		if err := l.slimStep(ctx, step, slim); err != nil {
			return fmt.Errorf("drop the texts of step %d: %w", step, explain(err))
		}
	}
	return nil
}

// slimmed returns the newest step whose episodes were slimmed, 0 if there is none.
func (l *Ledger) slimmed(ctx context.Context) (int64, error) {
	text, err := l.meta(ctx, slimKey)
	if err != nil || text == "" {
		return 0, err
	}
	step, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: entry %s in run.db%s", ErrDamaged, slimKey, checkHint)
	}
	return step, nil
}

// limitSlimmed makes a step the newest one that may count as slimmed: later ones are
// made again.
func (l *Ledger) limitSlimmed(ctx context.Context, step int64) error {
	done, err := l.slimmed(ctx)
	if err != nil || done <= step {
		return err
	}
	return explain(l.add(ctx, "meta", tableNamed("meta").upsert(), slimKey, strconv.FormatInt(step, 10)))
}

func (l *Ledger) slimStep(ctx context.Context, step int64, slim func(Episode) (Episode, error)) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	stored, err := episodes(ctx, tx, "WHERE step = ? ORDER BY grp, episode", step)
	if err != nil {
		return err
	}
	if err := replaceEpisodes(ctx, tx, step, stored, slim); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM facts WHERE step = ? AND kind <> ''", step); err != nil {
		return err
	}
	if err := drop(ctx, tx, "untrained", "step = ?", step); err != nil {
		return err
	}
	if err := dropLogprobs(ctx, tx, step); err != nil {
		return err
	}
	if err := renewContent(ctx, tx, step); err != nil {
		return err
	}
	err = add(ctx, tx, "meta", tableNamed("meta").upsert(), slimKey, strconv.FormatInt(step, 10))
	if err != nil {
		return err
	}
	return tx.Commit()
}

// replaceEpisodes replaces the training episodes of a step by what slim leaves of them.
func replaceEpisodes(
	ctx context.Context, tx *sql.Tx, step int64, stored []Episode, slim func(Episode) (Episode, error),
) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM episodes WHERE step = ?", step); err != nil {
		return err
	}
	for _, e := range stored {
		e, err := slim(e)
		if err != nil {
			return err
		}
		values, err := e.pack()
		if err != nil {
			return err
		}
		if err := insert(ctx, tx, "episodes", "", values...); err != nil {
			return err
		}
	}
	return nil
}

// dropLogprobs removes the trainer's log-probs from the estimates of a step.
func dropLogprobs(ctx context.Context, tx *sql.Tx, step int64) error {
	all, err := estimates(ctx, tx, step, "WHERE step = ? ORDER BY grp, episode", step)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM estimates WHERE step = ?", step); err != nil {
		return err
	}
	for _, e := range all {
		e.Logprobs = nil
		if err := insert(ctx, tx, "estimates", "", e.values(step)...); err != nil {
			return err
		}
	}
	return nil
}

// renewContent computes the content of a step from its rows again.
func renewContent(ctx context.Context, tx *sql.Tx, step int64) error {
	steps, err := readSteps(ctx, tx, "WHERE step = ?", step)
	if err != nil || len(steps) == 0 {
		return err
	}
	content, err := contentOf(ctx, tx, step)
	if err != nil {
		return err
	}
	s, sum := steps[0], checksum(content...)
	_, err = tx.ExecContext(ctx, "UPDATE steps SET content = ?, checksum = ? WHERE step = ?", sum,
		checksum(s.Step, s.Version, s.At, s.Metrics, sum), step)
	return err
}
