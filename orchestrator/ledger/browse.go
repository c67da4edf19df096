package ledger

import (
	"context"
	"fmt"
)

// tableOf is the table of the episodes of a kind. Empty: training episodes.
func tableOf(kind string) string {
	if kind != "" {
		return "untrained"
	}
	return "episodes"
}

// ofKind is the condition that selects a kind in its table, and its argument.
func ofKind(kind string) (where string, args []any) {
	if kind == "" {
		return "1", nil
	}
	return "kind = ?", []any{kind}
}

// StepsWith returns the steps that have episodes of a kind, in order. Empty kind:
// training episodes, also those of a step that is not committed.
func (l *Ledger) StepsWith(ctx context.Context, kind string) ([]int64, error) {
	where, args := ofKind(kind)
	rows, err := l.db.QueryContext(ctx, "SELECT DISTINCT step FROM "+tableOf(kind)+" WHERE "+where+" ORDER BY step",
		args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []int64
	for rows.Next() {
		var step int64
		if err := rows.Scan(&step); err != nil {
			return nil, unreadable(tableOf(kind), err)
		}
		out = append(out, step)
	}
	return out, explain(rows.Err())
}

// OfKind returns the episodes of a kind and a step, by group and number. Empty
// kind: training episodes.
func (l *Ledger) OfKind(ctx context.Context, kind string, step int64) ([]Episode, error) {
	if kind == "" {
		return l.Episodes(ctx, step)
	}
	return l.Untrained(ctx, kind, step)
}

// Counts returns the number of episodes of each kind. The kind of training episodes
// is empty.
func (l *Ledger) Counts(ctx context.Context) (map[string]int, error) {
	rows, err := l.db.QueryContext(ctx,
		"SELECT '', count(*) FROM episodes UNION ALL SELECT kind, count(*) FROM untrained GROUP BY kind")
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var kind string
		var n int
		if err := rows.Scan(&kind, &n); err != nil {
			return nil, fmt.Errorf("count the episodes: %w", explain(err))
		}
		out[kind] = n
	}
	return out, explain(rows.Err())
}

// NewestUntrained grows with each episode that is not trained.
func (l *Ledger) NewestUntrained(ctx context.Context) (n int64, err error) {
	err = l.db.QueryRowContext(ctx, "SELECT coalesce(max(rowid), 0) FROM untrained").Scan(&n)
	return n, explain(err)
}

// Newest changes when the run has a new step, evaluation or event.
func (l *Ledger) Newest(ctx context.Context) (text string, err error) {
	err = l.db.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(step), 0) FROM steps) || ' ' ||
		(SELECT count(*) FROM evaluations) || ' ' ||
		coalesce((SELECT checksum FROM evaluations ORDER BY rowid DESC LIMIT 1), '') || ' ' ||
		(SELECT coalesce(max(id), 0) FROM events)`).Scan(&text)
	return text, explain(err)
}
