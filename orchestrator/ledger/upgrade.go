package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// upgraded is the entry of meta that says that imports were not recorded from the
// beginning.
const upgraded = "upgraded from format"

// newTables returns the statements of the schema that create tables which earlier
// formats did not have.
func newTables() ([]string, error) {
	text, err := schema.ReadFile("schema.sql")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range []string{"untrained", "estimates"} {
		_, rest, _ := strings.Cut(string(text), "CREATE TABLE "+name+"(")
		body, rest, ok := strings.Cut(rest, "\n)")
		if !ok {
			return nil, fmt.Errorf("the schema has no table %s", name)
		}
		options, _, _ := strings.Cut(rest, ";")
		out = append(out, "CREATE TABLE "+name+"("+body+"\n)"+options)
	}
	return out, nil
}

// newColumns are the columns of episodes that earlier formats did not have. An
// episode without tokens has all of its numbers in its JSON.
var newColumns = []string{
	"DROP VIEW turns",
	"ALTER TABLE episodes ADD COLUMN at TEXT NOT NULL DEFAULT ''",
	"ALTER TABLE episodes ADD COLUMN tokens BLOB NOT NULL DEFAULT x''",
	"ALTER TABLE episodes ADD COLUMN logprobs BLOB NOT NULL DEFAULT x''",
}

// addColumns brings a database of format 2 to the present one. Every row is
// compared with its old checksum first.
func addColumns(ctx context.Context, db *sql.DB) error { return upgradeWith(ctx, db, addColumnsIn) }

func addColumnsIn(ctx context.Context, tx *sql.Tx, created []string) error {
	for _, statement := range append(newColumns[:len(newColumns):len(newColumns)], created...) {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	old := table{"episodes", []string{"step", "grp", "episode", "task", "mode", "version", "stop", "env_return", "score",
		"success", "trajectory"}, 3}
	added := []any{"", []byte{}, []byte{}}
	err := old.rewrite(ctx, tx, func(row []any) ([]any, error) {
		text := row[10]
		return append(append(row[:10:10], added[0], text), added[1:]...), nil
	})
	if err != nil {
		return err
	}
	steps := tableNamed("steps")
	err = steps.rewrite(ctx, tx, func(row []any) ([]any, error) {
		content, err := contentOf(ctx, tx, row[0].(int64))
		row[4] = checksum(content...)
		_, set := tx.ExecContext(ctx, "UPDATE steps SET content = ? WHERE step = ?", row[4], row[0])
		return row, errors.Join(err, set)
	})
	return err
}

// upgradeWith brings a database to the present format in one transaction. created are
// the statements for the tables that earlier formats did not have.
func upgradeWith(
	ctx context.Context, db *sql.DB, change func(ctx context.Context, tx *sql.Tx, created []string) error,
) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	created, err := newTables()
	if err != nil {
		return err
	}
	if err := change(ctx, tx, created); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion)); err != nil {
		return err
	}
	return tx.Commit()
}

// rewrite compares every row of a table with its checksum, and replaces the
// checksum by that of the values that change returns.
func (t table) rewrite(ctx context.Context, tx *sql.Tx, change func(row []any) ([]any, error)) error {
	key := strings.Join(t.columns[:t.key], ", ")
	keys, err := selectAll(ctx, tx, "SELECT "+key+" FROM "+t.name, t.key)
	if err != nil {
		return err
	}
	where := " WHERE " + strings.Join(t.columns[:t.key], " = ? AND ") + " = ?"
	n := len(t.columns)
	for _, k := range keys {
		rows, err := selectAll(ctx, tx, "SELECT "+t.list()+" FROM "+t.name+where, n+1, k...)
		if err != nil {
			return err
		}
		if len(rows) != 1 {
			return fmt.Errorf("%w: row %v cannot be found", ErrDamaged, k)
		}
		if err := verify(fmt.Sprintf("row %v of %s", k, t.name), fmt.Sprint(rows[0][n]), rows[0][:n]...); err != nil {
			return err
		}
		values, err := change(rows[0][:n])
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "UPDATE "+t.name+" SET checksum = ?"+where, append([]any{checksum(values...)}, k...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// addChecksums brings a database of format 1 to the present one. It checks the pages of
// the database first, because rows are trusted once they have a checksum.
func addChecksums(ctx context.Context, db *sql.DB) error {
	if err := checkPages(ctx, db, "quick_check"); err != nil {
		return err
	}
	return upgradeWith(ctx, db, addChecksumsIn)
}

func addChecksumsIn(ctx context.Context, tx *sql.Tx, created []string) error {
	for _, statement := range append(newColumns[:len(newColumns):len(newColumns)], []string{
		"CREATE TABLE pins(name TEXT PRIMARY KEY, value TEXT NOT NULL, step INTEGER NOT NULL)",
		"CREATE TABLE imports(id INTEGER PRIMARY KEY, step INTEGER NOT NULL, records TEXT NOT NULL)",
		"ALTER TABLE steps ADD COLUMN content TEXT NOT NULL DEFAULT ''",
		"ALTER TABLE versions ADD COLUMN files TEXT NOT NULL DEFAULT '{}'",
		"ALTER TABLE versions ADD COLUMN checkpoint TEXT NOT NULL DEFAULT ''",
	}...) {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if t.name == "untrained" || t.name == "estimates" {
			continue
		}
		err := t.addChecksums(ctx, tx, func(row []any) error {
			if t.name != "steps" { // plans and episodes come before them
				return nil
			}
			content, err := contentOf(ctx, tx, row[0].(int64))
			row[4] = checksum(content...)
			return err
		})
		if err != nil {
			return fmt.Errorf("add checksums to %s: %w", t.name, err)
		}
	}
	for _, statement := range created {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return insert(ctx, tx, "meta", "", upgraded, "1")
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
		values := append(append(plainValues(rows[0]), checksum(rows[0]...)), k...)
		if _, err := tx.ExecContext(ctx, "UPDATE "+t.name+" SET "+set+" WHERE "+where, values...); err != nil {
			return err
		}
	}
	return nil
}
