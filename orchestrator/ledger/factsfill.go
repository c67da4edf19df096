package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// FillFacts computes the facts of the episodes that have none: an earlier version
// of empo2 stored them. It does nothing if they are complete. In a run that is open
// for reading, the computed facts live in memory until it is closed, and later calls
// find new episodes.
func (l *Ledger) FillFacts(ctx context.Context, of func(Episode) (*Facts, error)) error {
	l.filling.Lock()
	defer l.filling.Unlock()
	if l.filled {
		return nil
	}
	err := l.fillFacts(ctx, of)
	if err != nil {
		return fmt.Errorf("list the episodes: %w", explain(err))
	}
	return nil
}

func (l *Ledger) fillFacts(ctx context.Context, of func(Episode) (*Facts, error)) error {
	if l.lock != nil {
		if _, err := verifyFacts(ctx, l); errors.Is(err, ErrDamaged) { // all of them are computed again
			_, err := l.db.ExecContext(ctx, "DELETE FROM facts; DELETE FROM names")
			if err != nil {
				return err
			}
		}
	}
	stored, err := l.factsComplete(ctx, "main")
	if err != nil {
		return err
	}
	if stored {
		l.filled = true
		_, err := l.db.ExecContext(ctx, "DROP TABLE IF EXISTS temp.facts; DROP TABLE IF EXISTS temp.names")
		return err
	}
	if l.lock == nil {
		if err := l.copyFacts(ctx); err != nil {
			return err
		}
		if complete, err := l.factsComplete(ctx, "temp"); err != nil || complete {
			return err
		}
	}
	if err := l.computeFacts(ctx, of); err != nil {
		return err
	}
	l.filled = l.lock != nil
	return nil
}

// factsComplete reports whether each episode has facts in a schema.
func (l *Ledger) factsComplete(ctx context.Context, schema string) (bool, error) {
	known, err := l.hasTable(ctx, schema, "facts")
	if err != nil || !known {
		return false, err
	}
	var episodes, facts int
	err = l.db.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM episodes) + (SELECT count(*) FROM untrained), "+
		"(SELECT count(*) FROM "+schema+".facts)").Scan(&episodes, &facts)
	return facts >= episodes, err
}

func (l *Ledger) hasTable(ctx context.Context, schema, name string) (bool, error) {
	var n int
	err := l.db.QueryRowContext(ctx, "SELECT count(*) FROM "+schema+".sqlite_schema WHERE name = ?", name).Scan(&n)
	return n > 0, err
}

// copyFacts makes temporary tables, which hide those of the run, with the facts of
// the run. It does nothing if they exist.
func (l *Ledger) copyFacts(ctx context.Context) error {
	if known, err := l.hasTable(ctx, "temp", "facts"); err != nil || known {
		return err
	}
	stored, err := l.hasTable(ctx, "main", "facts")
	if err != nil {
		return err
	}
	script := strings.ReplaceAll(factsSchema, "CREATE TABLE", "CREATE TEMP TABLE")
	if stored {
		script += "INSERT INTO temp.names SELECT * FROM main.names; INSERT INTO temp.facts SELECT * FROM main.facts;"
	}
	_, err = l.db.ExecContext(ctx, "PRAGMA temp_store = MEMORY; BEGIN;\n"+script+"\nCOMMIT;")
	return err
}

// computeFacts adds the facts that are missing, step by step.
func (l *Ledger) computeFacts(ctx context.Context, of func(Episode) (*Facts, error)) error {
	const query = `SELECT DISTINCT '', step FROM episodes e WHERE NOT EXISTS
			(SELECT 1 FROM facts f WHERE f.kind = '' AND (f.step, f.grp, f.episode) = (e.step, e.grp, e.episode))
		UNION ALL SELECT DISTINCT kind, step FROM untrained e WHERE NOT EXISTS
			(SELECT 1 FROM facts f WHERE (f.kind, f.step, f.grp, f.episode) = (e.kind, e.step, e.grp, e.episode))`
	steps, err := selectAll(ctx, l.db, query, 2)
	if err != nil {
		return err
	}
	for _, s := range steps {
		kind, _ := s[0].(string)
		step, _ := s[1].(int64)
		found, err := l.OfKind(ctx, kind, step)
		if err != nil {
			return err
		}
		if err := l.addFacts(ctx, found, of); err != nil {
			return err
		}
	}
	return nil
}

// addFacts computes and saves the facts of episodes in one transaction.
func (l *Ledger) addFacts(ctx context.Context, of []Episode, compute func(Episode) (*Facts, error)) error {
	for i, e := range of {
		facts, err := compute(e)
		if err != nil {
			return err
		}
		of[i].Facts = facts
	}
	conn, err := l.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	// BeginTx would ask for the lock of the run, which a reader cannot have.
	if _, err := conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	for _, e := range of {
		if err := saveFacts(ctx, conn, e); err != nil {
			_, _ = conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // the error is the one of the row
			return err
		}
	}
	_, err = conn.ExecContext(ctx, "COMMIT")
	return err
}

// verifyFacts compares the rows of facts with their checksums, and returns how many
// are right. A run of an earlier version has none.
func verifyFacts(ctx context.Context, l *Ledger) (n int, err error) {
	if known, err := l.hasTable(ctx, "main", "facts"); err != nil || !known {
		return 0, err
	}
	kinds, err := selectAll(ctx, l.db, "SELECT DISTINCT kind FROM facts", 1)
	for _, k := range kinds {
		if err == nil {
			err = l.Rows(ctx, AllOf(fmt.Sprint(k[0])), func(Row) error { n++; return nil })
		}
	}
	var all int
	if err == nil {
		err = l.db.QueryRowContext(ctx, "SELECT count(*) FROM facts").Scan(&all)
	}
	if err == nil && n != all {
		err = fmt.Errorf("%w: %d facts in run.db have no name%s", ErrDamaged, all-n, checkHint)
	}
	return n, explain(err)
}
