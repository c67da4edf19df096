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
	"strconv"
	"strings"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// versions lists the numbers of the entries of a folder named prefix+digits. A
// folder that does not exist has none.
func versions(dir, prefix string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if n, err := strconv.Atoi(digits); ok && err == nil {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}

// A folder is one that the trainer writes, with the prefix of its entries.
type folder struct{ path, prefix, manifest string }

// entry returns the path of a version in the folder.
func (f folder) entry(version int) string {
	return filepath.Join(f.path, fmt.Sprintf("%s%06d", f.prefix, version))
}

func adapters(dir string) folder {
	return folder{filepath.Join(dir, "adapters"), "v", manifest.Adapter}
}

// AdapterDir is the folder of a version's adapter in the folder of a run.
func AdapterDir(dir string, version int) string { return adapters(dir).entry(version) }

func checkpoints(dir string) folder {
	return folder{filepath.Join(dir, "checkpoints"), "", manifest.Checkpoint}
}

// folders are the folders that the trainer writes in a run's folder.
func folders(dir string) []folder { return []folder{adapters(dir), checkpoints(dir)} }

// DiscardAfter removes the adapter and the checkpoint of the version after a
// committed one. They belong to a step that was never committed. Files of later
// versions than that cannot be explained; they stay, and DiscardAfter returns an
// error.
func (l *Ledger) DiscardAfter(version int) error {
	last, err := l.lastStep()
	if err != nil {
		return err
	}
	unknown, err := versionsAfter(l.Dir, int(last)+1)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w: %s has files of version %d, but run.db ends at step %d\n"+
			"  hint: restore run.db from a backup, or --from-step %d, which sets the later files aside",
			ErrDamaged, l.Dir, unknown[len(unknown)-1], last, last)
	}
	return l.remove(func(all []int) []int {
		return slices.DeleteFunc(all, func(v int) bool { return v <= version })
	})
}

// lastStep returns the number of the last committed step.
func (l *Ledger) lastStep() (step int64, err error) {
	err = l.db.QueryRow("SELECT coalesce(max(step), 0) FROM steps").Scan(&step)
	return step, explain(err)
}

// versionsAfter lists the versions above a number that have files, in order.
func versionsAfter(dir string, version int) ([]int, error) {
	var out []int
	for _, f := range folders(dir) {
		all, err := versions(f.path, f.prefix)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", f.path, err)
		}
		out = append(out, slices.DeleteFunc(all, func(v int) bool { return v <= version })...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Prune makes every commit durable on disk. Then it removes old adapters and
// checkpoints. The newest ones stay; keep is their number. While another program
// reads the database the commits may not reach the database file; the old files
// then stay until the next Prune.
func (l *Ledger) Prune(ctx context.Context, keep int) error {
	done, err := checkpoint(ctx, l.db)
	if err != nil || !done {
		return err
	}
	return l.remove(func(all []int) []int { return all[:max(0, len(all)-keep)] })
}

// checkpoint moves the write-ahead log into the database file and flushes both to
// disk. It reports false if a reader kept it from moving all of it.
func checkpoint(ctx context.Context, db *sql.DB) (done bool, err error) {
	var busy, frames, moved int
	err = db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	if err != nil {
		return false, fmt.Errorf("checkpoint run.db: %w", explain(err))
	}
	return busy == 0, nil
}

// remove removes versions of adapters and checkpoints. A folder is renamed first,
// so that a removal that is interrupted leaves no incomplete version.
func (l *Ledger) remove(which func([]int) []int) error {
	var errs []error
	for _, f := range folders(l.Dir) {
		all, err := versions(f.path, f.prefix)
		if err != nil {
			return fmt.Errorf("list %s: %w", f.path, err)
		}
		for _, v := range which(all) {
			removed := filepath.Join(f.path, ".tmp-removed-"+filepath.Base(f.entry(v)))
			errs = append(errs, os.RemoveAll(removed), os.Rename(f.entry(v), removed), os.RemoveAll(removed))
		}
	}
	return errors.Join(errs...)
}

// HasCheckpoint reports whether the folder of a version's checkpoint is there. Version 0
// has none and needs none.
func (l *Ledger) HasCheckpoint(version int) bool {
	if version == 0 {
		return true
	}
	_, err := os.Stat(checkpoints(l.Dir).entry(version))
	return !errors.Is(err, fs.ErrNotExist)
}

// VerifyCheckpoint compares the checkpoint of a version with its manifest and
// with the record of the commit. Version 0 has no checkpoint.
func (l *Ledger) VerifyCheckpoint(ctx context.Context, version int) error {
	if version == 0 {
		return nil
	}
	v, err := l.version(ctx, version)
	if err != nil {
		return err
	}
	return verifyCheckpoint(l.Dir, v)
}

// verifyCheckpoint accepts a version without a record: it was not committed yet.
func verifyCheckpoint(dir string, v Version) error {
	m, err := manifest.Verify(checkpoints(dir).entry(v.Version), manifest.Checkpoint)
	switch {
	case errors.Is(err, manifest.ErrDamaged):
		return fmt.Errorf("%w: checkpoint %06d: %w%s", ErrDamaged, v.Version, err, checkHint)
	case err != nil:
		return fmt.Errorf("checkpoint %06d: %w", v.Version, err)
	case v.Checkpoint != "" && v.Checkpoint != m.SHA256:
		return fmt.Errorf("%w: checkpoint %06d is another one than was committed%s", ErrDamaged, v.Version, checkHint)
	}
	return nil
}

// VerifyAdapter compares the files of a version's adapter with the record of the
// commit. got are their checksums by name. A file that was not recorded, because
// the run had another server then, cannot be compared.
func (l *Ledger) VerifyAdapter(ctx context.Context, version int, got map[string]string) error {
	v, err := l.version(ctx, version)
	if err != nil {
		return err
	}
	return v.verifyFiles(got)
}

func (v Version) verifyFiles(got map[string]string) error {
	for name, sum := range v.Files {
		if has, ok := got[name]; ok && has != sum {
			return fmt.Errorf("%w: %s of version %d differs from the file that was committed%s",
				ErrDamaged, name, v.Version, checkHint)
		}
	}
	return nil
}
