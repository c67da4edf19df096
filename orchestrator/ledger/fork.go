package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// forkKey is the entry of the table meta that names the run and the step that a run
// was forked from.
const forkKey = "forked"

// ForkedFrom returns the run that the run in dir was forked from, for example
// "runs/a"; empty if it is no fork or does not exist.
func ForkedFrom(ctx context.Context, dir string) (run string, err error) {
	path := filepath.Join(dir, databaseName)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return "", nil
	}
	var from string
	err = readDatabase(ctx, path, func(db *sql.DB) (err error) {
		from, err = readMeta(ctx, db, forkKey)
		return err
	})
	if step := strings.LastIndexByte(from, '@'); step >= 0 { // a folder may have this character too
		from = from[:step]
	}
	return from, err
}

// A Forking says which run is made from which state of another one.
type Forking struct {
	From string // the folder of the other run, which may be running
	Step int64  // -1: its newest one
	To   string // the folder of the new run, which must not exist
	// Prepare completes the new database before the run appears. It writes the tables of
	// other packages and the configuration.
	Prepare func(ctx context.Context, l *Ledger, step int64) error
}

// Fork makes a new run from a state of another one: its steps and episodes up to a
// step, and the checkpoint and adapter of its version. The folder appears when it is
// complete, so an interrupted Fork can be repeated. It returns the step.
func Fork(ctx context.Context, f Forking) (step int64, err error) {
	fail := func(err error) (int64, error) { return 0, fmt.Errorf("fork %s: %w", f.From, err) }
	if _, err := os.Lstat(f.To); err == nil {
		return fail(fmt.Errorf("%s exists\n  hint: choose another name with --set run.name=…", f.To))
	}
	removeUnfinishedForks(filepath.Dir(f.To))
	scratch := filepath.Join(filepath.Dir(f.To), "."+filepath.Base(f.To)+forkSuffix)
	lock, err := claim(scratch)
	if err != nil {
		return fail(err)
	}
	defer func() {
		lock.Close()
		if err != nil {
			err = errors.Join(err, os.RemoveAll(scratch))
		}
	}()
	version, step, err := f.copy(ctx, scratch)
	if err != nil {
		return fail(err)
	}
	if err := f.write(ctx, scratch, step, version); err != nil {
		return fail(err)
	}
	r, err := verifyFolder(ctx, scratch)
	if err == nil && r.Damaged() {
		p := r.Problems[0]
		err = fmt.Errorf("%w: %s: %s\n  hint: empo2 check %s shows how to go on", ErrDamaged, p.Place, p.Detail,
			safetext.Argument(f.From))
	}
	if err != nil {
		return fail(err)
	}
	if err := os.Rename(scratch, f.To); err != nil {
		return fail(err)
	}
	return step, syncFolder(filepath.Dir(f.To))
}

// forkSuffix ends the name of the folder in which a fork is made. The name begins with
// a dot, so that it is not listed as a run.
const forkSuffix = ".fork"

// removeUnfinishedForks removes from a folder of runs what killed forks have left. A
// fork that goes on has its lock. What cannot be removed only takes space.
func removeUnfinishedForks(runs string) {
	entries, err := os.ReadDir(runs)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), forkSuffix) {
			continue
		}
		dir := filepath.Join(runs, e.Name())
		if lock, err := lockFile(filepath.Join(dir, "lock")); err == nil {
			lock.Close()
			_ = os.RemoveAll(dir)
		}
	}
}

// copy copies the database and the files of the step's version to scratch. A run that
// goes on may remove the files meanwhile.
func (f Forking) copy(ctx context.Context, scratch string) (version int, step int64, err error) {
	path, err := intoFile(filepath.Join(scratch, databaseName))
	if err != nil {
		return 0, 0, err
	}
	for attempt := 1; ; attempt++ {
		if err := emptyRun(scratch); err != nil {
			return 0, 0, err
		}
		var steps []Step
		err := readDatabase(ctx, filepath.Join(f.From, databaseName), func(db *sql.DB) error {
			if _, err := db.ExecContext(ctx, "VACUUM INTO ?", path); err != nil {
				return explain(err)
			}
			return nil
		})
		if err == nil {
			err = readDatabase(ctx, path, func(db *sql.DB) (err error) {
				steps, err = readSteps(ctx, db, "ORDER BY step")
				return err
			})
		}
		if err != nil {
			return 0, 0, err
		}
		if step = f.Step; step < 0 {
			step = int64(len(steps))
		}
		switch {
		case step > int64(len(steps)):
			return 0, 0, fmt.Errorf("step %d does not exist\n  hint: the newest step is %d", step, len(steps))
		case step == 0:
			return 0, 0, nil
		}
		version = steps[step-1].Version
		if version > 0 {
			err = copyVersion(f.From, scratch, version)
		}
		switch {
		case err == nil:
			return version, step, nil
		case !errors.Is(err, fs.ErrNotExist):
			return 0, 0, err
		case f.Step >= 0 || attempt == backupAttempts:
			return 0, 0, fmt.Errorf("the checkpoint of step %d was removed\n  hint: run.keep_checkpoints says how many stay; "+
				"leave the step out to fork the newest one", step)
		}
	}
}

// emptyRun removes what an interrupted Fork has left in a folder.
func emptyRun(dir string) error {
	for _, name := range []string{databaseName, databaseName + ".new"} {
		for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
			if err := os.Remove(filepath.Join(dir, name+suffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	for _, f := range folders(dir) {
		if err := os.RemoveAll(f.path); err != nil {
			return err
		}
	}
	return makeFolders(dir)
}

// write replaces the copied database by one that ends with the step.
func (f Forking) write(ctx context.Context, scratch string, step int64, version int) error {
	path := filepath.Join(scratch, databaseName)
	detail := fmt.Sprintf("from %s at step %d, version %d", f.From, step, version)
	err := writeUntil(ctx, scratch, step, stepEvent{"forked", detail}, func(ctx context.Context, l *Ledger) error {
		from := fmt.Sprintf("%s@%d", f.From, step)
		if err := l.add(ctx, "meta", tableNamed("meta").upsert(), forkKey, from); err != nil {
			return err
		}
		if f.Prepare == nil {
			return nil
		}
		return f.Prepare(ctx, l, step)
	})
	if err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm"} {
		for _, name := range []string{path, path + ".new"} {
			if err := os.Remove(name + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(scratch)
}
