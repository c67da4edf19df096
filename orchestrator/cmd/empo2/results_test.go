package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fullDevice refuses every write, as a full disk does.
type fullDevice struct{}

func (fullDevice) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A command whose results are lost fails.
func TestLostResultsAreAnError(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("runs", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"ls runs", "config", "--help", "--version", "completion bash"} {
		var stderr strings.Builder
		code := execute(t.Context(), strings.Fields(args), fullDevice{}, &stderr)
		if code == 0 || !strings.Contains(stderr.String(), "no space left on device") {
			t.Errorf("empo2 %s: exit code %d, %s", args, code, &stderr)
		}
	}
}

// Files are replaced only if the user says so, and what is no file never.
func TestResultsReplaceNoFiles(t *testing.T) {
	dir := t.TempDir()
	mine, link := filepath.Join(dir, "mine"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(mine, []byte("mine"), 0o600), os.Symlink(os.DevNull, link)); err != nil {
		t.Fatal(err)
	}
	for path, forced := range map[string]bool{mine: true, filepath.Join(dir, "new"): true, link: false, dir: false,
		filepath.Join(dir, "none", "file"): false, "": false} {
		if err := checkOut("--out", path, true); (err == nil) != forced {
			t.Errorf("%q with --force: %v", path, err)
		}
	}
	if err := checkOut("--out", mine, false); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("a file that exists: %v", err)
	}
	if err := writeFile(link, func(io.Writer) error { return nil }); err == nil {
		t.Error("a device was replaced")
	}
}
