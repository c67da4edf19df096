package ledger

import (
	"context"
	"database/sql"
	"fmt"
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

// SavePin records what the run depends on after a step, and replaces an earlier
// record of that name.
func (l *Ledger) SavePin(ctx context.Context, step int64, name, sha256 string) error {
	err := insert(ctx, l.db, "pins", tableNamed("pins").upsert(), name, sha256, step)
	if err != nil {
		return fmt.Errorf("record %s: %w", name, explain(err))
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
		err = insert(ctx, tx, "imports", "", last, records)
	}
	if err != nil {
		return fmt.Errorf("record the import: %w", explain(err))
	}
	return nil
}
