//go:build unix

package ledger

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Other users may enter the run's folder and read adapters, and nothing else,
// under every umask.
func TestPermissions(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		dir := filepath.Join(t.TempDir(), "runs", "a")
		before := syscall.Umask(umask)
		l, err := Open(context.Background(), dir)
		if err == nil {
			err = l.SaveConfig(context.Background(), "[run]\n")
		}
		syscall.Umask(before)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]fs.FileMode{"..": 0o755, ".": 0o711, "adapters": 0o755, "checkpoints": 0o700,
			"run.db": 0o600, "run.db-wal": 0o600, "config.toml": 0o600, "lock": 0o600} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("umask %o: %s: %v, want %v (%v)", umask, name, info.Mode().Perm(), want, err)
			}
		}
		l.Close()
	}
}
