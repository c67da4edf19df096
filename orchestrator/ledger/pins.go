package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
)

// Pins returns what the run's results depend on: SHA-256 by name.
func (l *Ledger) Pins(ctx context.Context) (map[string]string, error) {
	rows, err := selectAll(ctx, l.db, "SELECT "+tableNamed("pins").list()+" FROM pins", 4)
	if err != nil {
		return nil, explain(err)
	}
	out := map[string]string{}
	for _, row := range rows {
		name := fmt.Sprint(row[0])
		if err := verify("the record of "+name, fmt.Sprint(row[3]), row[:3]...); err != nil {
			return nil, err
		}
		out[name] = fmt.Sprint(row[1])
	}
	return out, nil
}

// SavePins records what the run depends on after a step, in one transaction: a part
// of the record would look like a change. It replaces earlier records of the same
// names. changed becomes an event; empty: none.
func (l *Ledger) SavePins(ctx context.Context, step int64, pins map[string]string, changed string) error {
	fail := func(err error) error { return fmt.Errorf("record what the run depends on: %w", explain(err)) }
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return fail(err)
	}
	defer tx.Rollback() // no effect after Commit
	if changed != "" {
		if err := add(ctx, tx, "events", "", step, now(), "changed", changed); err != nil {
			return fail(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pins)) {
		if err := add(ctx, tx, "pins", tableNamed("pins").upsert(), name, pins[name], step); err != nil {
			return fail(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fail(err)
	}
	return nil
}

// An Import is a file of tips that was imported into the memory after a step.
type Import struct {
	Step    int64
	Records string // JSON lines
}

// Imports returns all imports in order. all is false if the run was begun by a
// version of empo2 that did not record them.
func (l *Ledger) Imports(ctx context.Context) (imports []Import, all bool, err error) {
	text, err := l.meta(ctx, upgraded)
	if err != nil {
		return nil, false, err
	}
	rows, err := selectAll(ctx, l.db, "SELECT "+tableNamed("imports").list()+" FROM imports ORDER BY id", 3)
	if err != nil {
		return nil, false, explain(err)
	}
	for _, row := range rows {
		if err := verify("an import", fmt.Sprint(row[2]), row[:2]...); err != nil {
			return nil, false, err
		}
		step, _ := row[0].(int64)
		imports = append(imports, Import{Step: step, Records: fmt.Sprint(row[1])})
	}
	return imports, text == "", nil
}

// SaveImport records an import in the transaction of the import.
func (l *Ledger) SaveImport(ctx context.Context, tx *sql.Tx, records string) error {
	var last int64
	err := tx.QueryRowContext(ctx, "SELECT coalesce(max(step), 0) FROM steps").Scan(&last)
	if err == nil {
		err = add(ctx, tx, "imports", "", last, records)
	}
	if err != nil {
		return fmt.Errorf("record the import: %w", explain(err))
	}
	return nil
}
