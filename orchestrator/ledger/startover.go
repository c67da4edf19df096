package ledger

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Begun reports whether the run in dir has something to keep. A run whose start failed
// has nothing: its folder is there, but another model or environment may take it. A
// run that is open elsewhere has begun, and so has one that cannot be read.
func Begun(ctx context.Context, dir string) bool {
	info, err := os.Stat(filepath.Join(dir, databaseName))
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return false
	}
	begun := true
	err = View(ctx, dir, func(l *Ledger) (err error) {
		begun, err = l.Begun(ctx)
		return err
	})
	return (begun || err != nil) && !errors.Is(err, errUnfinishedFile)
}

// Begun is [Begun] of an open run. Plans do not count: they are drawn again from the
// seed. Imported tips do not count either: they stay. If rows are missing, the run has
// begun.
func (l *Ledger) Begun(ctx context.Context) (bool, error) {
	if len(missingRows(ctx, l.db)) > 0 {
		return true, nil
	}
	for _, f := range folders(l.Dir) {
		if all, err := versions(f.path, f.prefix); len(all) > 0 || err != nil {
			return true, err
		}
	}
	from, err := l.meta(ctx, forkKey)
	if from != "" || err != nil {
		return true, err
	}
	for _, name := range []string{"steps", "episodes", "untrained", "versions", "evaluations"} {
		if n, err := rowsOf(ctx, l.db, name); n > 0 || err != nil {
			return true, explain(err)
		}
	}
	return false, nil
}

// StartOver removes all that a start has written to a run that has not begun:
// configuration, pins, and the tables of other packages. It keeps events of restarts.
// If tips were imported, they and the tables of other packages stay too.
func (l *Ledger) StartOver(ctx context.Context) error {
	return explain(transact(ctx, l.db, func(tx *sql.Tx) error {
		imports, err := rowsOf(ctx, tx, "imports")
		if err != nil {
			return err
		}
		all, err := selectAll(ctx, tx, "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'", 1)
		if err != nil {
			return err
		}
		own := slices.Concat(namesOf(tables), []string{"facts", "names", piecesTable})
		for _, row := range all {
			name, _ := row[0].(string)
			statement := "DELETE FROM " + name
			switch isOwn := slices.Contains(own, name); {
			case imports > 0 && (name == "imports" || !isOwn):
				continue
			case name == "events":
				statement += " WHERE kind NOT LIKE '%restart'"
			case !isOwn:
				statement = "DROP TABLE " + name
			}
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
		return recount(ctx, tx)
	}))
}
