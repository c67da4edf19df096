package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
)

// upgraded is the entry of meta that says that imports were not recorded from the
// beginning.
const upgraded = "upgraded from format"

// addChecksums brings a database of format 1 to format 2. It checks the pages of
// the database first, because rows are trusted once they have a checksum.
func addChecksums(ctx context.Context, db *sql.DB) error {
	if err := checkPages(ctx, db, "quick_check"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	for _, statement := range []string{
		"CREATE TABLE pins(name TEXT PRIMARY KEY, value TEXT NOT NULL, step INTEGER NOT NULL)",
		"CREATE TABLE imports(id INTEGER PRIMARY KEY, step INTEGER NOT NULL, records TEXT NOT NULL)",
		"ALTER TABLE steps ADD COLUMN content TEXT NOT NULL DEFAULT ''",
		"ALTER TABLE versions ADD COLUMN files TEXT NOT NULL DEFAULT '{}'",
		"ALTER TABLE versions ADD COLUMN checkpoint TEXT NOT NULL DEFAULT ''",
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	for _, t := range tables {
		err := t.addChecksums(ctx, tx, func(row []any) error {
			if t.name != "steps" { // plans and episodes come before them
				return nil
			}
			content, err := contentOf(ctx, tx, row[0].(int64))
			row[4] = content
			return err
		})
		if err != nil {
			return fmt.Errorf("add checksums to %s: %w", t.name, err)
		}
	}
	if err := insert(ctx, tx, "meta", "", upgraded, "1"); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

// addChecksums computes the checksums of all rows. fill sets columns that the
// earlier format did not have.
func (t table) addChecksums(ctx context.Context, tx *sql.Tx, fill func(row []any) error) error {
	if _, err := tx.ExecContext(ctx, "ALTER TABLE "+t.name+" ADD COLUMN checksum TEXT NOT NULL DEFAULT ''"); err != nil {
		return err
	}
	key := t.columns[:t.key]
	if t.key == 0 {
		key = []string{"rowid"}
	}
	keys, err := selectAll(ctx, tx, "SELECT "+strings.Join(key, ", ")+" FROM "+t.name, len(key))
	if err != nil {
		return err
	}
	where := strings.Join(key, " = ? AND ") + " = ?"
	for _, k := range keys {
		rows, err := selectAll(ctx, tx, "SELECT "+strings.Join(t.columns, ", ")+" FROM "+t.name+" WHERE "+where,
			len(t.columns), k...)
		if err != nil {
			return err
		}
		if len(rows) != 1 {
			return fmt.Errorf("%w: row %v cannot be found", ErrDamaged, k)
		}
		if err := fill(rows[0]); err != nil {
			return err
		}
		set := strings.Join(t.columns, " = ?, ") + " = ?, checksum = ?"
		values := append(append(rows[0], checksum(rows[0]...)), k...)
		if _, err := tx.ExecContext(ctx, "UPDATE "+t.name+" SET "+set+" WHERE "+where, values...); err != nil {
			return err
		}
	}
	return nil
}
