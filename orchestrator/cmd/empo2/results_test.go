package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
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

// brokenPipe is a pipe whose reader has ended.
type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
}

// If nobody reads the results, a short command ends in silence, and a long one is interrupted as by Ctrl-C.
func TestNobodyReadsTheResults(t *testing.T) {
	for _, args := range []string{"config --profile demo", "--help", "--version", "completion bash"} {
		var stderr strings.Builder
		if code := execute(t.Context(), strings.Fields(args), brokenPipe{}, &stderr); code != exitPipe || stderr.Len() > 0 {
			t.Errorf("empo2 %s: exit code %d, %s", args, code, &stderr)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	results := &resultWriter{w: brokenPipe{}, gone: func() { cancel(errInterrupted{syscall.SIGPIPE}) }}
	_, _ = io.WriteString(results, "step 1")
	var stderr strings.Builder
	code := conclude(ctx, context.Cause(ctx), &stderr)
	if want := "empo2: interrupted (nobody reads the output); finished work is kept"; code != exitInterrupted ||
		!strings.HasPrefix(stderr.String(), want) {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
	// A connection that breaks is another failure.
	if code := conclude(t.Context(), fmt.Errorf("post: %w", syscall.EPIPE), &stderr); code != exitFailed {
		t.Errorf("a broken connection: exit code %d", code)
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
