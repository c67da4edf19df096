package memory_test

import (
	"bytes"
	"database/sql"
	"testing"

	"github.com/empo2/empo2/memory"
)

// What is imported can be exported and imported again, with the same number of tips. A
// refused import changes nothing.
func FuzzImport(f *testing.F) {
	const header = `{"kind":"bank","format":1}` + "\n"
	f.Add([]byte(header + `{"kind":"tip","tip":{"id":1,"scope":"s","text":"a","score":1},"states":["b"]}`))
	f.Add([]byte(header + `{"kind":"state","scope":"s","state":"b","visits":3}`))
	f.Add([]byte(header + `{"kind":"tip","tip":{"scope":"s","text":"\u0000"},"states":["", "b", "b"]}`))
	f.Add([]byte(header + `{"kind":"tip","tip":{"scope":"s","text":"a","score":1e999}}`))
	f.Add([]byte(`{"kind":"bank","format":2}`))
	f.Fuzz(func(t *testing.T, records []byte) {
		from, into := openBank(t, volatile(t)), openBank(t, volatile(t))
		tips, err := from.Import(t.Context(), bytes.NewReader(records), nil)
		var lines bytes.Buffer
		if failed := from.Export(t.Context(), &lines); failed != nil {
			t.Fatal(failed)
		}
		if err != nil {
			if bytes.Contains(lines.Bytes(), []byte(`"kind":"tip"`)) {
				t.Errorf("the refused import (%v) has left %s", err, lines.Bytes())
			}
			return
		}
		if again, err := into.Import(t.Context(), &lines, nil); err != nil || again > tips {
			t.Errorf("%d tips, then %d: %v", tips, again, err)
		}
	})
}

// volatile is a database in RAM.
func volatile(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1) // every connection has a database of its own
	if err := memory.Migrate(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db
}
