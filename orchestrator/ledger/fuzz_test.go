package ledger

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Any value in any column is damage if the checksum of its row is another one. With the
// right checksum, nothing that reads the run fails in another way than with an error.
func FuzzColumns(f *testing.F) {
	f.Add(uint8(2), uint8(11), []byte("{}"), false, true)
	f.Add(uint8(2), uint8(12), []byte{1, 2, 3}, true, false)
	f.Add(uint8(5), uint8(3), []byte(`{"x": 1e999}`), false, true)
	f.Add(uint8(0), uint8(1), []byte("\xff"), false, true)
	dir, once := f.TempDir(), sync.Once{}
	f.Fuzz(func(t *testing.T, table, column uint8, value []byte, blob, valid bool) {
		once.Do(func() { fullRun(t, dir) })
		changed := tables[int(table)%len(tables)]
		at := int(column) % len(changed.columns)
		l := open(t, dir)
		defer l.Close()
		rows, err := selectAll(t.Context(), l.db, "SELECT "+changed.list()+" FROM "+changed.name+" LIMIT 1",
			len(changed.columns)+1)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 0 {
			return // a table without a row
		}
		for i, v := range rows[0] {
			if b, ok := v.([]byte); ok && b == nil {
				rows[0][i] = []byte{} // nil would be written as NULL
			}
		}
		before, after := rows[0], append([]any{}, rows[0]...)
		if after[at] = string(value); blob {
			after[at] = value
		}
		if valid {
			after[len(after)-1] = checksum(after[:len(after)-1]...)
		}
		if !replaceRow(t, l, changed, before, after) {
			return // the column takes no such value
		}
		readEverything(t, l)
		_, damage := readTable(t.Context(), l.db, changed.name, "")
		stored, err := selectAll(t.Context(), l.db, "SELECT "+changed.columns[at]+" FROM "+changed.name+
			" WHERE checksum = ?", 1, after[len(after)-1])
		if err != nil || len(stored) != 1 {
			t.Fatal(len(stored), err)
		}
		same := fmt.Sprintf("%T %v", stored[0][0], stored[0][0]) == fmt.Sprintf("%T %v", before[at], before[at])
		if !valid && !same && !errors.Is(damage, ErrDamaged) {
			t.Errorf("%s.%s = %q: %v", changed.name, changed.columns[at], value, damage)
		}
		if !replaceRow(t, l, changed, after, before) {
			t.Fatal("the row cannot be restored")
		}
	})
}

// replaceRow replaces a row behind the ledger's back. It reports whether the table takes
// the new one.
func replaceRow(t *testing.T, l *Ledger, in table, before, after []any) bool {
	t.Helper()
	err := transact(t.Context(), l.db, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "DELETE FROM "+in.name+" WHERE checksum = ?", before[len(before)-1])
		if err != nil {
			return err
		}
		marks := strings.Repeat(", ?", len(after))[2:]
		_, err = tx.ExecContext(t.Context(), "INSERT INTO "+in.name+"("+in.list()+") VALUES("+marks+")", after...)
		return err
	})
	return err == nil
}

// readEverything calls all that reads rows. Errors are right answers.
func readEverything(t *testing.T, l *Ledger) {
	ctx := t.Context()
	_, _ = l.Config(ctx)
	_, _ = l.Events(ctx, 9)
	_, _ = l.Pins(ctx)
	_, _, _ = l.Imports(ctx)
	_, _ = l.Steps(ctx)
	_, _ = l.Plan(ctx, 1)
	_, _ = l.Episodes(ctx, 1)
	_, _ = l.Estimates(ctx, 1)
	_, _ = l.Untrained(ctx, "eval", 2)
	_, _ = l.Evaluations(ctx)
	_ = l.Rows(ctx, AllOf(""), func(Row) error { return nil })
	_, _ = l.QuickCheck(ctx)
	_, _ = l.Begun(ctx)
}

// Any file beside the database is a write-ahead log that is whole, or one that is damaged.
func FuzzWriteAheadLog(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("7\x7f\x06\x82\x00-\xe2\x18\x00\x00\x10\x00" + strings.Repeat("\x00", 60)))
	f.Add([]byte("7\x7f\x06\x83\x00-\xe2\x18\xff\xff\xff\xff" + strings.Repeat("\x01", 600)))
	path := filepath.Join(f.TempDir(), "run.db-wal")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if len(text) <= walHeader && damagedWAL(path) != "" {
			t.Errorf("a log of %d bytes has no transaction", len(text))
		}
	})
}
