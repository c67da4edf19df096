package ledger

import (
	"context"
	"fmt"
	"strings"
)

// SavePieces stores the texts of token ids, for people who look at episodes.
func (l *Ledger) SavePieces(ctx context.Context, pieces map[int32]string) error {
	fail := func(err error) error { return fmt.Errorf("save the texts of tokens: %w", explain(err)) }
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return fail(err)
	}
	defer tx.Rollback() // no effect after Commit
	for id, text := range pieces {
		if _, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO pieces VALUES(?, ?)", id, text); err != nil {
			return fail(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fail(err)
	}
	return nil
}

// Pieces returns the texts of token ids, as far as they are known. Nil ids: all.
func (l *Ledger) Pieces(ctx context.Context, ids []int32) (map[int32]string, error) {
	out := map[int32]string{}
	if known, err := l.hasTable(ctx, "main", "pieces"); err != nil || !known { // a run of an earlier version
		return out, explain(err)
	}
	query, args := "SELECT id, text FROM pieces", []any{}
	if ids != nil {
		query += " WHERE id IN (NULL" + strings.Repeat(", ?", len(ids)) + ")"
		for _, id := range ids {
			args = append(args, id)
		}
	}
	rows, err := l.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id int32
		var text string
		if err := rows.Scan(&id, &text); err != nil {
			return nil, unreadable("pieces", err)
		}
		out[id] = text
	}
	return out, explain(rows.Err())
}
