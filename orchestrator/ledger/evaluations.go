package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// SaveEvaluation records the evaluation of a step and kind, and replaces an
// earlier one.
func (l *Ledger) SaveEvaluation(
	ctx context.Context, step int64, kind string, version int, result json.RawMessage,
) error {
	return explain(l.add(ctx, "evaluations", tableNamed("evaluations").upsert(), step, kind, version, result))
}

// Evaluation returns a recorded evaluation, nil if there is none.
func (l *Ledger) Evaluation(ctx context.Context, step int64, kind string) (json.RawMessage, error) {
	row := l.db.QueryRowContext(ctx, evaluationColumns+"WHERE step = ? AND kind = ?", step, kind)
	text, err := scanEvaluation(row)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return text, explain(err)
}

const evaluationColumns = "SELECT step, kind, version, result, checksum FROM evaluations "

// scanEvaluation reads one row and verifies it.
func scanEvaluation(row interface{ Scan(...any) error }) (json.RawMessage, error) {
	var step, version int64
	var kind, result, sum string
	if err := row.Scan(&step, &kind, &version, &result, &sum); err != nil {
		return nil, err
	}
	what := fmt.Sprintf("the evaluation of step %d", step)
	return json.RawMessage(result), verify(what, sum, step, kind, version, result)
}

// Evaluations returns all recorded evaluations, by step.
func (l *Ledger) Evaluations(ctx context.Context) ([][]byte, error) {
	rows, err := l.db.QueryContext(ctx, evaluationColumns+"ORDER BY step, kind")
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		text, err := scanEvaluation(rows)
		if err != nil {
			return nil, explain(err)
		}
		out = append(out, text)
	}
	return out, explain(rows.Err())
}

// DropEvaluation removes an evaluation, so that it can be repeated with more
// episodes.
func (l *Ledger) DropEvaluation(ctx context.Context, step int64, kind string) error {
	return explain(transact(ctx, l.db, func(tx *sql.Tx) error {
		return drop(ctx, tx, "evaluations", "step = ? AND kind = ?", step, kind)
	}))
}
