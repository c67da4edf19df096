package main

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// A damaged run is refused before a Python is looked for or a server is started.
func TestADamagedRunIsRefusedFirst(t *testing.T) {
	c := config.Default()
	c.Run.Dir, c.Run.Name = t.TempDir(), "damaged"
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	cmd := &runCmd{}
	if err := cmd.checkStored(t.Context(), c); err != nil {
		t.Errorf("a run that does not exist: %v", err)
	}
	l, err := ledger.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := cmd.checkStored(t.Context(), c); err != nil {
		t.Errorf("a new run: %v", err)
	}
	file := filepath.Join(dir, "run.db")
	young := config.Default()
	young.Run.Dir, young.Run.Name = t.TempDir(), "young"
	unfinished(t, filepath.Join(young.Run.Dir, young.Run.Name))
	if err := cmd.checkStored(t.Context(), young); err != nil {
		t.Errorf("a run that was killed while its database was created: %v", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	copy(data[4096:], bytes.Repeat([]byte{0xA5}, 8192))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.checkStored(t.Context(), c); !errors.Is(err, ledger.ErrDamaged) {
		t.Errorf("an overwritten run: %v", err)
	}
	step := int64(1)
	cmd.FromStep = &step
	if err := cmd.checkStored(t.Context(), c); err != nil {
		t.Errorf("with --from-step: %v", err)
	}
}

// The commands that take a run look for its name where ./config.toml puts runs.
func TestANameIsLookedUpInTheRunsFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("config.toml", []byte("[run]\ndir = \"elsewhere\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), filepath.Join("elsewhere", "mine"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	f := func(want int, args ...string) {
		t.Helper()
		var out, stderr bytes.Buffer
		if got := execute(t.Context(), args, &out, &stderr); got != want {
			t.Errorf("empo2 %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, want, stderr.String())
		}
	}
	for _, command := range []string{"check", "show", "tips"} {
		f(0, command, "mine")
		f(exitUsage, command, "other")
	}
	f(0, "backup", "mine", "mine.tar")
	f(0, "ls")
}

// A run that is running is not damaged.
func TestARunningRunIsNotChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "running")
	l, err := ledger.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out, stderr bytes.Buffer
	if got := execute(t.Context(), []string{"check", dir}, &out, &stderr); got != exitSetup ||
		!strings.Contains(stderr.String(), "in use by another process\n  hint: check it when the run has ended") {
		t.Errorf("exit code %d: %s%s", got, out.String(), stderr.String())
	}
}

// unfinished writes a database without tables, as a kill in the first transaction leaves it.
func unfinished(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "run.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("PRAGMA journal_mode = WAL; CREATE TABLE gone(x); DROP TABLE gone"); err != nil {
		t.Fatal(err)
	}
}
