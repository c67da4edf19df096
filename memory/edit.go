package memory

import (
	"context"
	"encoding/json"
	"fmt"
)

// An Edit is a change that a person makes to the tips of a bank.
type Edit string

const (
	// Pin keeps a tip although its scope is full. Copies that later episodes write are
	// pinned too. Its rank does not change.
	Pin Edit = "pin"
	// Unpin ends Pin.
	Unpin Edit = "unpin"
	// Remove deletes a tip. A later episode may write it again.
	Remove Edit = "remove"
)

// Records returns the edit of all copies of a tip in the format of [Bank.Import],
// which makes it.
func (e Edit) Records(scope, text string) (string, error) {
	out := ""
	for _, r := range []record{{Kind: "bank", Format: transferFormat}, {Kind: string(e), Scope: scope, Text: text}} {
		line, err := json.Marshal(r)
		if err != nil {
			return "", err
		}
		out += string(line) + "\n"
	}
	return out, nil
}

func isEdit(kind string) bool {
	switch Edit(kind) {
	case Pin, Unpin, Remove:
		return true
	}
	return false
}

// edit makes the edit of a record.
func (w *writer) edit(ctx context.Context, rec record) error {
	query, pinned := "UPDATE memory_tips SET pinned = ?3 WHERE scope = ?1 AND text = ?2", Edit(rec.Kind) == Pin
	if Edit(rec.Kind) == Remove {
		query = `DELETE FROM memory_entries WHERE ?3 IS NOT NULL AND tip IN
			(SELECT id FROM memory_tips WHERE scope = ?1 AND text = ?2)`
	}
	done, err := w.tx.ExecContext(ctx, query, rec.Scope, rec.Text, pinned)
	if err != nil {
		return fmt.Errorf("%s the tip: %w", rec.Kind, err)
	}
	if n, err := done.RowsAffected(); err != nil || n == 0 {
		return fmt.Errorf("%s the tip: the memory has no such tip in scope %q", rec.Kind, rec.Scope)
	}
	return w.touch(ctx, rec.Scope)
}

// Pinned calls yield with each pinned tip. A bank of an earlier version has none.
func Pinned(ctx context.Context, db Database, yield func(scope, text string)) error {
	var columns int
	err := db.QueryRowContext(ctx,
		"SELECT count(*) FROM pragma_table_info('memory_tips') WHERE name = 'pinned'").Scan(&columns)
	if err != nil || columns == 0 {
		return err
	}
	rows, err := db.QueryContext(ctx, "SELECT DISTINCT scope, text FROM memory_tips WHERE pinned")
	if err != nil {
		return fmt.Errorf("list pinned tips: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var scope, text string
		if err := rows.Scan(&scope, &text); err != nil {
			return fmt.Errorf("list pinned tips: %w", err)
		}
		yield(scope, text)
	}
	return rows.Err()
}
