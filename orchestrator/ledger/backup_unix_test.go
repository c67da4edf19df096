//go:build unix

package ledger

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A backup, and every file that is extracted from it, is private under every umask, except adapters.
func TestABackupIsPrivate(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SaveConfig(t.Context(), "[run]\n"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if _, err := Backup(t.Context(), l.Dir, file); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v: %v", info.Mode(), err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	files := 0
	for r := tar.NewReader(f); ; files++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg && h.Mode != 0o600 {
			t.Errorf("%s: %o", h.Name, h.Mode)
		}
	}
	if files < 2 {
		t.Errorf("%d files", files)
	}
	for name, want := range map[string]int64{"adapters/v1/adapter.gguf": 0o644, "base/config.json": 0o644,
		"checkpoints/1/optimizer.pt": 0o600, "run.db": 0o600} {
		if got := modeInRun(name, false); got != want {
			t.Errorf("%s: %o, want %o", name, got, want)
		}
	}
	if modeInRun("adapters/", true) != 0o755 || modeInRun("checkpoints/1/", true) != 0o700 {
		t.Error("folders have other permissions")
	}
}
