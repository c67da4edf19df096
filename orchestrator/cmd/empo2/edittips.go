package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/view"
)

// tipArgument names a tip of a run.
type tipArgument struct {
	runArgument
	ID string `arg:"" help:"The id of the tip; see empo2 tips RUN --json."`
}

type (
	pinCmd    struct{ tipArgument }
	unpinCmd  struct{ tipArgument }
	removeCmd struct{ tipArgument }
)

func (cmd *pinCmd) Run(ctx context.Context, out *console) error {
	return cmd.edit(ctx, out, memory.Pin)
}
func (cmd *unpinCmd) Run(ctx context.Context, out *console) error {
	return cmd.edit(ctx, out, memory.Unpin)
}
func (cmd *removeCmd) Run(ctx context.Context, out *console) error {
	return cmd.edit(ctx, out, memory.Remove)
}

func (a tipArgument) edit(ctx context.Context, out *console, what memory.Edit) error {
	var key ledger.TipKey
	id, err := hex.DecodeString(a.ID)
	if err != nil || len(id) != len(key) {
		return &config.Error{Place: a.ID, Msg: "it is no id of a tip", Hint: "empo2 tips RUN --json shows the ids"}
	}
	copy(key[:], id)
	dir, err := a.dir()
	if err != nil {
		return err
	}
	if err := editTip(ctx, dir, string(what), key); err != nil {
		return err
	}
	out.note("%s: %s of tip %s is done; a run that goes on takes it up", dir, what, a.ID)
	return nil
}

// editTip pins, unpins or removes a tip in the memory of the run in a folder, which no
// process may have open. The run records it, so that its memory can be computed again.
func editTip(ctx context.Context, dir, what string, key ledger.TipKey) error {
	c, scope, text, err := findTip(ctx, dir, key)
	if err != nil {
		return err
	}
	records, err := memory.Edit(what).Records(scope, text)
	if err != nil {
		return err
	}
	return withMemory(ctx, c, func(l *ledger.Ledger, b bank) error {
		_, err := b.Import(ctx, strings.NewReader(records), func(tx *sql.Tx) error {
			return l.SaveImport(ctx, tx, records)
		})
		if err != nil {
			return err
		}
		last, err := l.Last(ctx)
		return errors.Join(err, l.Event(ctx, last.Step, "memory", fmt.Sprintf("%s: %s", what, text)))
	})
}

// findTip returns the configuration of the run in a folder, and the tip with a key.
func findTip(ctx context.Context, dir string, key ledger.TipKey) (c config.Config, scope, text string, err error) {
	r, err := view.Open(ctx, dir)
	if err != nil {
		return c, "", "", err
	}
	defer r.Close()
	stored, err := r.Config(ctx)
	if err != nil {
		return c, "", "", err
	}
	if c, err = parseStored(stored, dir); err != nil {
		return c, "", "", err
	}
	c.Run.Dir, c.Run.Name = filepath.Dir(dir), filepath.Base(dir) // the folder may have been moved
	tips, err := memory.Stored(ctx, r.DB(), "")
	if err != nil {
		return c, "", "", err
	}
	for _, t := range tips {
		if ledger.KeyOfTip(t.Scope, t.Text) == key {
			return c, t.Scope, t.Text, nil
		}
	}
	return c, "", "", &config.Error{Place: dir, Msg: fmt.Sprintf("the memory has no tip %x", key[:]),
		Hint: "empo2 tips RUN --json shows the ids; only stored tips can be changed"}
}
