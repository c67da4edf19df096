package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

type memoryCmd struct {
	Export exportCmd `cmd:"" help:"Print a run's tips as JSON lines."`
	Import importCmd `cmd:"" help:"Add tips to a run from JSON lines on standard input."`
	Pin    pinCmd    `cmd:"" help:"Keep a tip although the memory is full."`
	Unpin  unpinCmd  `cmd:"" help:"End what pin did."`
	Remove removeCmd `cmd:"" help:"Delete a tip. A later episode may write it again."`
}

// Help is shown by empo2 memory --help.
func (memoryCmd) Help() string {
	return `Examples:
  empo2 memory export --set run.name=try1 > tips.jsonl
  empo2 memory import --set run.name=try2 < tips.jsonl
  empo2 memory remove try2 8834d252e7      the ids are in: empo2 tips try2 --json`
}

type exportCmd struct{ common }

// Help is shown by empo2 memory export --help.
func (exportCmd) Help() string {
	return "Example:\n  empo2 memory export --set run.name=try1 > tips.jsonl"
}

func (cmd *exportCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	if c, err = storedConfig(ctx, c, cmd.Set); err != nil {
		return err
	}
	return withMemory(ctx, c, func(_ *ledger.Ledger, b bank) error { return b.Export(ctx, out.out) })
}

type importCmd struct{ common }

// Help is shown by empo2 memory import --help.
func (importCmd) Help() string {
	return `Creates the run if it does not exist. Embeds the tips again.

Example:
  empo2 memory import --set run.name=try2 < tips.jsonl`
}

func (cmd *importCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	records, err := io.ReadAll(io.LimitReader(os.Stdin, maxImport+1))
	switch {
	case err != nil:
		return fmt.Errorf("read standard input: %w", err)
	case len(records) == 0:
		return fmt.Errorf("%w: standard input is empty\n  hint: empo2 memory import < tips.jsonl", errUsage)
	case len(records) > maxImport:
		return fmt.Errorf("%w: standard input is larger than 512 MB\n  hint: import the tips in parts", errUsage)
	}
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	made := firstMissing(dir)
	err = withMemory(ctx, c, func(l *ledger.Ledger, b bank) error {
		n, err := b.Import(ctx, bytes.NewReader(records), func(tx *sql.Tx) error {
			return l.SaveImport(ctx, tx, string(records))
		})
		if err == nil {
			out.note("%s added to %s", counted(n, "tip"), dir)
		}
		return err
	})
	if err != nil && made != "" { // the folder was made for this import
		return errors.Join(err, removeMade(dir, made))
	}
	return err
}

// maxImport is the largest file of tips in bytes. It is stored in run.db.
const maxImport = 512 << 20

// firstMissing returns the first folder on the way to dir that does not exist, ""
// if dir exists.
func firstMissing(dir string) string {
	missing := ""
	for !fileExists(dir) {
		missing = dir
		if filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	return missing
}

// removeMade removes a folder and those above it that were made with it, from made on.
// A folder above it stays if another command uses it.
func removeMade(dir, made string) error {
	err := os.RemoveAll(dir)
	for err == nil && dir != made {
		dir = filepath.Dir(dir)
		if os.Remove(dir) != nil {
			break
		}
	}
	return err
}

// bank has the methods of the memory that the commands call.
type bank interface {
	Export(ctx context.Context, w io.Writer) error
	Import(ctx context.Context, r io.Reader, with func(*sql.Tx) error) (tips int, err error)
}

// withMemory opens only the run's folder and its bank, and calls f.
func withMemory(ctx context.Context, c config.Config, f func(*ledger.Ledger, bank) error) (err error) {
	if err := errNotTips(c); err != nil {
		return err
	}
	r := &run{}
	defer func() { err = errors.Join(err, r.Close()) }()
	if r.ledger, err = openLedger(ctx, c); err != nil {
		return err
	}
	r.closes = append(r.closes, r.ledger.Close)
	m, err := r.openMemory(ctx, c)
	if err != nil {
		return err
	}
	return f(r.ledger, m.Strategy.(*memory.Bank)) // by errNotTips
}
