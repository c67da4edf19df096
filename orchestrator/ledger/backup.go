package ledger

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// backupAttempts is how often a backup begins again because the run has gone on
// and removed the files that it was copying.
const backupAttempts = 5

// Backup writes a run to a tar file: the database, the adapter and the checkpoint
// of its last version, and the folder base of a warm-started model. The run may go
// on meanwhile; the backup has the state of one moment. Backup verifies the copy before the file appears. It
// returns the report of that check.
func Backup(ctx context.Context, dir, file string) (*Report, error) {
	fail := func(err error) (*Report, error) { return nil, fmt.Errorf("back up %s: %w", dir, err) }
	if file == "" {
		return fail(errors.New("the backup has no name\n  hint: name a file, for example run.tar"))
	}
	if _, err := os.Lstat(file); err == nil {
		return fail(fmt.Errorf("%s exists\n  hint: choose another name for the backup", file))
	}
	if _, err := os.Stat(filepath.Join(dir, databaseName)); err != nil {
		return fail(fmt.Errorf("%w\n  hint: name the folder of a run", err))
	}
	scratch, err := os.MkdirTemp(filepath.Dir(file), ".empo2-backup-*")
	if err != nil {
		return fail(fmt.Errorf("%w\n  hint: the folder of %s must exist and be writable", err, file))
	}
	defer os.RemoveAll(scratch)
	if err := snapshot(ctx, dir, scratch); err != nil {
		return fail(err)
	}
	base := filepath.Join(dir, "base") // never changes
	if _, err := os.Stat(base); err == nil {
		if err := os.CopyFS(filepath.Join(scratch, "base"), os.DirFS(base)); err != nil {
			return fail(err)
		}
	}
	r, err := Verify(ctx, scratch)
	if err != nil {
		return fail(err)
	}
	if len(r.Problems) > 0 {
		p := r.Problems[0]
		return fail(fmt.Errorf("%w: %s: %s\n  hint: empo2 check %s shows how to go on", ErrDamaged, p.Place, p.Detail,
			safetext.Argument(dir)))
	}
	if err := writeTar(scratch, file); err != nil {
		return fail(err)
	}
	return r, nil
}

// snapshot copies a run of one moment to a folder.
func snapshot(ctx context.Context, dir, to string) error {
	path, err := intoFile(filepath.Join(to, databaseName))
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		for _, old := range []string{path, adapters(to).path, checkpoints(to).path} { // of the attempt before
			if err := os.RemoveAll(old); err != nil {
				return err
			}
		}
		err := readDatabase(ctx, filepath.Join(dir, databaseName), func(db *sql.DB) error {
			_, err := db.ExecContext(ctx, "VACUUM INTO ?", path)
			return explain(err)
		})
		if err != nil {
			return err
		}
		var config string
		var last []Step
		err = readDatabase(ctx, path, func(db *sql.DB) (err error) {
			if last, err = readSteps(ctx, db, "ORDER BY step DESC LIMIT 1"); err != nil {
				return err
			}
			config, err = readMeta(ctx, db, "config")
			return err
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(to, configName), []byte(config), 0o600)
		}
		if err != nil {
			return err
		}
		if len(last) == 0 || last[0].Version == 0 {
			return nil
		}
		err = copyVersion(dir, to, last[0].Version)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if attempt == backupAttempts {
			return fmt.Errorf("%w\n  hint: empo2 check %s shows what is missing and how to go on", err,
				safetext.Argument(dir))
		}
	}
}

// copyVersion copies the checkpoint and, if there is one, the adapter of a
// version.
func copyVersion(dir, to string, version int) error {
	from, into := folders(dir), folders(to)
	for i := range from {
		err := copyFolder(from[i].entry(version), into[i].entry(version))
		isAdapter := from[i].prefix != ""
		if err != nil && !(isAdapter && errors.Is(err, fs.ErrNotExist)) { // the checkpoint yields it again
			return err
		}
	}
	return nil
}

func copyFolder(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := makeDir(to, 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return errors.Join(syncFolder(to), syncFolder(filepath.Dir(to)))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err == nil {
		err = syncFile(out)
	}
	return errors.Join(err, out.Close())
}

// syncFile flushes a file to disk. Tests replace it.
var syncFile = (*os.File).Sync

// writeTar writes the files of a folder to a new tar file and reads it again to
// compare. Only the owner can read the file.
func writeTar(dir, file string) (err error) {
	scratch := file + ".new"
	out, err := os.OpenFile(scratch, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, out.Close())
		if err == nil {
			err = errors.Join(os.Rename(scratch, file), syncFolder(filepath.Dir(file)))
		}
		if err != nil {
			_ = os.Remove(scratch) // the first error counts
		}
	}()
	sums, err := addFiles(out, dir)
	if err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return compareTar(out, sums)
}

// modeInRun returns the permissions of a file of a run, by its name in the folder. SQLite and copies give others.
func modeInRun(name string, isDir bool) int64 {
	top, _, _ := strings.Cut(name, "/")
	shared := top == "adapters" || top == "base" // a server may run under another user
	switch {
	case shared && isDir:
		return 0o755
	case shared:
		return 0o644
	case isDir:
		return 0o700
	}
	return 0o600
}

// addFiles writes the files of a folder and returns their checksums by name.
func addFiles(out io.Writer, dir string) (map[string]string, error) {
	sums := map[string]string{}
	w := tar.NewWriter(out)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == dir || e.Name() == "lock" || e.Name() == databaseName+"-shm" ||
			e.Name() == databaseName+"-wal" {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		header.Name = filepath.ToSlash(rel)
		header.Uname, header.Gname, header.Uid, header.Gid = "", "", 0, 0
		header.Mode = modeInRun(header.Name, e.IsDir())
		if e.IsDir() {
			header.Name += "/"
			return w.WriteHeader(header)
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, sum), f); err != nil {
			return err
		}
		sums[header.Name] = hex.EncodeToString(sum.Sum(nil))
		return nil
	})
	return sums, errors.Join(err, w.Close())
}

// compareTar reads a tar file and compares the checksums of its files.
func compareTar(in io.Reader, want map[string]string) error {
	found := 0
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the backup again: %w", err)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return fmt.Errorf("read the backup again: %w", err)
		}
		if hex.EncodeToString(sum.Sum(nil)) != want[header.Name] {
			return fmt.Errorf("%s in the backup differs from what was written", header.Name)
		}
		found++
	}
	if found != len(want) {
		return fmt.Errorf("the backup has %d files, %d were written", found, len(want))
	}
	return nil
}
