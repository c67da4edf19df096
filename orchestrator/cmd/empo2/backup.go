package main

import (
	"context"

	"github.com/empo2/empo2/orchestrator/ledger"
)

type backupCmd struct {
	runArgument
	File string `arg:"" help:"The tar file to write."`
}

// Help is shown by empo2 backup --help.
func (backupCmd) Help() string {
	return `Copies the state of one moment to a tar file: the database, and the adapter and the
checkpoint of the last version. The run may go on meanwhile. The copy is verified
before the file appears.

Example, and how to restore it:
  empo2 backup try1 try1.tar
  mkdir -p runs/try1 && tar -xf try1.tar -C runs/try1 && empo2 check try1`
}

func (cmd *backupCmd) Run(ctx context.Context, out *console) error {
	dir, err := cmd.dir()
	if err != nil {
		return err
	}
	r, err := ledger.Backup(ctx, dir, cmd.File)
	if err != nil {
		return err
	}
	out.note("%s holds %s after step %d, version %d: %d rows and %d files", cmd.File, dir, r.Steps, r.Version,
		r.Rows, r.Files)
	return nil
}
