package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
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
