package ledger

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// OpenReader opens a run for reading, also while another process has it open. It
// changes nothing and needs no lock; any number of readers may read a run. Methods
// that write return an error. A reader that keeps a transaction open keeps the
// write-ahead log of the run from shrinking.
func OpenReader(ctx context.Context, dir string) (*Ledger, error) {
	path := filepath.Join(dir, databaseName)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		if err == nil {
			err = fs.ErrNotExist
		}
		return nil, fmt.Errorf("read the run in %s: %w\n  hint: empo2 ls lists the runs below a folder", dir, err)
	}
	db, err := connect(ctx, path, reading)
	if err != nil {
		return nil, err
	}
	format, err := formatOf(ctx, db)
	switch {
	case err != nil:
		err = explain(err)
	case format < readableVersion:
		err = errEarlierFormat
	case format > schemaVersion:
		err = fmt.Errorf("its format is %d, this empo2 reads %d\n  hint: use the empo2 that wrote it", format, schemaVersion)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("read the run in %s: %w", dir, err)
	}
	return &Ledger{Dir: dir, db: db}, nil
}
