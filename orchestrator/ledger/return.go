package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A Rebuild writes the tables of another package into a new database, whose
// steps and episodes are complete.
type Rebuild func(ctx context.Context, l *Ledger) error

// Return brings the run in dir back to a step. Later steps are set aside: the
// whole database and the adapters and checkpoints of later versions are moved to
// the folder that Return returns, and nothing is deleted. It is empty if the run
// is at that step already.
//
// The new database is complete before it replaces the old one, so an interrupted
// Return can be repeated.
func Return(ctx context.Context, dir string, step int64, rebuild Rebuild) (aside string, err error) {
	if _, err := os.Stat(filepath.Join(dir, databaseName)); err != nil {
		return "", fmt.Errorf("return to step %d: %w\n  hint: name a run that exists with --set run.name=…", step, err)
	}
	lock, err := claim(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if aside, err = returnTo(ctx, dir, step, rebuild); err != nil {
		return "", fmt.Errorf("return to step %d of %s: %w", step, dir, err)
	}
	return aside, nil
}

// ErrNotKept is wrapped by Return if the run has no state of the step any more.
var ErrNotKept = errors.New("this step was not kept")

func returnTo(ctx context.Context, dir string, step int64, rebuild Rebuild) (string, error) {
	path := filepath.Join(dir, databaseName)
	if db, err := openDB(ctx, path); err == nil { // brings an earlier format up to date and empties the log
		if _, err := checkpoint(ctx, db); err != nil && !errors.Is(err, ErrDamaged) {
			return "", errors.Join(err, db.Close())
		}
		db.Close()
	}
	r, err := verifyFolder(ctx, dir)
	if err != nil {
		return "", err
	}
	if !slices.Contains(r.Kept, step) {
		return "", fmt.Errorf("%w\n  hint: the run can return to %s", ErrNotKept, listed(r.Kept))
	}
	var version int
	err = readDatabase(ctx, path, func(db *sql.DB) error {
		steps, err := readSteps(ctx, db, "WHERE step = ?", step)
		if err == nil && len(steps) == 1 {
			version = steps[0].Version
		}
		return err
	})
	if err != nil && step > 0 {
		return "", err
	}
	later, err := versionsAfter(dir, version)
	if err != nil {
		return "", err
	}
	if step == r.Steps && len(later) == 0 && !r.Damaged() {
		return "", nil
	}
	returned := stepEvent{"returned", fmt.Sprintf("from step %d", r.Steps)}
	if err := writeUntil(ctx, dir, step, returned, rebuild); err != nil {
		return "", err
	}
	return setAside(dir, step, r.Steps, later)
}

// listed describes the steps that were kept.
func listed(kept []int64) string {
	text := make([]string, len(kept))
	for i, k := range kept {
		text[i] = fmt.Sprint(k)
	}
	if len(text) > 12 { // steps without a gradient keep the version before them
		text = append(append(text[:3:3], "…"), text[len(text)-8:]...)
	}
	return "step " + strings.Join(text, ", ")
}

// A stepEvent is an event of a step that is not written yet.
type stepEvent struct{ kind, detail string }

// writeUntil writes run.db.new: the rows of a run up to a step, an event, and what
// rebuild derives from them.
func writeUntil(ctx context.Context, dir string, step int64, event stepEvent, rebuild Rebuild) (err error) {
	path := filepath.Join(dir, databaseName+".new")
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	db, err := openDB(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	old := dataSource(filepath.Join(dir, databaseName), "mode=ro")
	if _, err := db.ExecContext(ctx, "ATTACH DATABASE ? AS old", old); err != nil {
		return explain(err)
	}
	if err := copyRows(ctx, db, step); err != nil {
		return err
	}
	if err := copyFacts(ctx, db, step); err != nil {
		return fmt.Errorf("copy the facts: %w", explain(err))
	}
	l := &Ledger{Dir: dir, db: db}
	if err := l.copyPieces(ctx); err != nil {
		return fmt.Errorf("copy the texts of tokens: %w", explain(err))
	}
	if _, err := db.ExecContext(ctx, "DETACH DATABASE old"); err != nil {
		return explain(err)
	}
	if err := transact(ctx, db, func(tx *sql.Tx) error { return recount(ctx, tx) }); err != nil {
		return explain(err)
	}
	if err := l.limitSlimmed(ctx, step); err != nil {
		return err
	}
	if err := l.Event(ctx, step, event.kind, event.detail); err != nil {
		return err
	}
	if rebuild != nil {
		if err := rebuild(ctx, l); err != nil {
			return fmt.Errorf("rebuild the memory: %w", err)
		}
	}
	if done, err := checkpoint(ctx, db); err != nil || !done {
		return errors.Join(err, errors.New("the new database could not be completed"))
	}
	return nil
}

// copyRows copies the rows up to a step from the attached database. What no step
// depends on is left out if it is damaged.
func copyRows(ctx context.Context, db *sql.DB, step int64) error {
	for _, t := range tables {
		switch t.name {
		case "plans", "episodes", "steps", "versions":
			query := fmt.Sprintf("INSERT INTO main.%[1]s(%[2]s) SELECT %[2]s FROM old.%[1]s WHERE step <= ?", t.name, t.list())
			if _, err := db.ExecContext(ctx, query, step); err != nil {
				return fmt.Errorf("copy %s: %w", t.name, explain(err))
			}
		default:
			if err := copyGood(ctx, db, t, step); err != nil {
				return fmt.Errorf("copy %s: %w", t.name, err)
			}
		}
	}
	return nil
}

// copyFacts copies the facts up to a step. Those that cannot be read are computed
// again when the run is opened.
func copyFacts(ctx context.Context, db *sql.DB, step int64) error {
	_, err := db.ExecContext(ctx, `INSERT INTO main.names SELECT * FROM old.names;
		INSERT INTO main.facts SELECT * FROM old.facts WHERE step <= ?`, step)
	if err == nil {
		return nil
	}
	_, err = db.ExecContext(ctx, "DELETE FROM main.facts; DELETE FROM main.names")
	return errors.Join(err, ctx.Err())
}

// copyGood copies the rows of a table whose checksum is right. A table that
// cannot be read stays empty.
func copyGood(ctx context.Context, db *sql.DB, t table, step int64) error {
	where := ""
	if slices.Contains(t.columns, "step") {
		where = fmt.Sprintf(" WHERE step <= %d", step)
	}
	n, suffix := len(t.columns), ""
	if t.name == "meta" { // the new database has counted its rows
		suffix = t.upsert()
	}
	rows, err := selectAll(ctx, db, "SELECT "+t.list()+" FROM old."+t.name+where, n+1)
	if err != nil {
		return ctx.Err()
	}
	for _, row := range rows {
		if !agrees(fmt.Sprint(row[n]), row[:n]...) {
			continue
		}
		if err := insert(ctx, db, t.name, suffix, row[:n]...); err != nil {
			return explain(err)
		}
	}
	return nil
}

// setAside moves the database and the files of later versions to a folder of
// their own, and the new database to the place of the old one.
func setAside(dir string, step, last int64, later []int) (string, error) {
	name := fmt.Sprintf("%s-steps-%d-to-%d", time.Now().UTC().Format("20060102T150405.000"), step+1, last)
	aside := filepath.Join(dir, "aside", name)
	for _, sub := range []string{"adapters", "checkpoints"} {
		if err := makeDir(filepath.Join(aside, sub), 0o700); err != nil {
			return "", err
		}
	}
	to := folders(aside)
	for i, f := range folders(dir) {
		for _, version := range later {
			err := os.Rename(f.entry(version), to[i].entry(version))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
		if err := errors.Join(syncFolder(to[i].path), syncFolder(f.path)); err != nil {
			return "", err
		}
	}
	path := filepath.Join(dir, databaseName)
	kept := filepath.Join(aside, databaseName)
	if err := os.Link(path, kept); err != nil { // without links there is a moment without a database
		if err := os.Rename(path, kept); err != nil {
			return "", err
		}
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Rename(path+suffix, kept+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	if err := os.Rename(path+".new", path); err != nil {
		return "", err
	}
	return aside, errors.Join(syncFolder(aside), syncFolder(filepath.Dir(aside)), syncFolder(dir))
}
