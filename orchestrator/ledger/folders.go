package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// configName is the name of the copy of the configuration for people.
const configName = "config.toml"

// makeFolders creates the folders of a run that do not exist. Servers under
// other users may enter the run's folder and read the adapters, whatever the
// umask. All other files are private.
func makeFolders(dir string) error {
	if err := makeDir(dir, 0o711); err != nil {
		return err
	}
	return errors.Join(makeDir(filepath.Join(dir, "adapters"), 0o755), makeDir(filepath.Join(dir, "checkpoints"), 0o700))
}

// makeDir creates a folder with its parents. It does not change a folder that
// exists.
func makeDir(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if parent := filepath.Dir(path); parent != path {
		if err := makeDir(parent, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, mode); err != nil {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() { // another process made it
			return nil
		}
		return err
	}
	return os.Chmod(path, mode) // Mkdir applies the umask
}

// writePrivate replaces a file that only its owner can read. The new content is
// on disk when it returns.
func writePrivate(path string, text []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder flushes the entries of a folder to disk, so that new and renamed
// files survive a power cut.
func syncFolder(dir string) error {
	if runtime.GOOS == "windows" { // folders cannot be flushed there
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// refuseStartOver returns an error if the folder has no database but other files
// of a run: a new run would overwrite them.
func refuseStartOver(dir string) error {
	info, err := os.Stat(filepath.Join(dir, databaseName))
	if err == nil && info.Size() > 0 {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("run %s: %w", dir, err)
	}
	found, err := traces(dir)
	if err != nil {
		return fmt.Errorf("run %s: %w", dir, err)
	}
	if len(found) == 0 {
		return nil
	}
	state := "is missing"
	if info != nil {
		state = "is empty"
	}
	return fmt.Errorf("%w: %s %s, but the folder has %s of an earlier run, which a new run would overwrite\n"+
		"  hint: restore run.db from a backup, or start a new run with another name (--set run.name=…)",
		ErrDamaged, filepath.Join(dir, databaseName), state, strings.Join(found, ", "))
}

// traces lists what an earlier run has left in a folder beside its database.
func traces(dir string) ([]string, error) {
	var found []string
	for _, f := range folders(dir) {
		all, err := versions(f.path, f.prefix)
		if err != nil {
			return nil, err
		}
		if len(all) > 0 {
			found = append(found, fmt.Sprintf("%d %s", len(all), filepath.Base(f.path)))
		}
	}
	for _, name := range []string{configName, databaseName + "-wal", databaseName + ".new"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err == nil && info.Size() > 0 {
			found = append(found, "the file "+name)
		}
	}
	return found, nil
}
