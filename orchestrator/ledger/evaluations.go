package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
)

// SaveEvaluation records the evaluation of a step and kind, and replaces an
// earlier one.
func (l *Ledger) SaveEvaluation(
	ctx context.Context, step int64, kind string, version int, result json.RawMessage,
) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO evaluations(step, kind, version, result) VALUES(?, ?, ?, ?)
		ON CONFLICT(step, kind) DO UPDATE SET version = excluded.version, result = excluded.result`,
		step, kind, version, string(result))
	return explain(err)
}

// Evaluation returns a recorded evaluation, nil if there is none.
func (l *Ledger) Evaluation(ctx context.Context, step int64, kind string) (json.RawMessage, error) {
	var text []byte
	row := l.db.QueryRowContext(ctx, "SELECT result FROM evaluations WHERE step = ? AND kind = ?", step, kind)
	err := row.Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return text, explain(err)
}

// Evaluations returns all recorded evaluations, by step.
func (l *Ledger) Evaluations(ctx context.Context) ([][]byte, error) {
	rows, err := l.db.QueryContext(ctx, "SELECT result FROM evaluations ORDER BY step, kind")
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, explain(rows.Err())
}

// DropEvaluation removes an evaluation, so that it can be repeated with more
// episodes.
func (l *Ledger) DropEvaluation(ctx context.Context, step int64, kind string) error {
	_, err := l.db.ExecContext(ctx, "DELETE FROM evaluations WHERE step = ? AND kind = ?", step, kind)
	return explain(err)
}
