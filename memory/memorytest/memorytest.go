// Package memorytest has the conformance suite of [memory.Strategy] ([Run]) and a
// simple strategy to compare others with ([Reference]).
package memorytest

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/empo2/empo2/memory"
)

// DB opens a new database file in WAL mode, with the tables of the memory. It is
// closed at the end of the test.
func DB(t testing.TB) *sql.DB {
	t.Helper()
	return OpenDB(t, filepath.Join(t.TempDir(), "run.db"))
}

// OpenDB is DB with a path.
func OpenDB(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+
		"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(10000)&_pragma=synchronous(OFF)&_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if err := memory.Migrate(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	return db
}

// Commit commits the experiences that s has learnt if keep is true, and rolls
// them back if not.
func Commit(ctx context.Context, db *sql.DB, s memory.Strategy, keep bool) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	done, err := s.Commit(ctx, tx)
	if err != nil {
		tx.Rollback() // the error of Commit is more important
		return err
	}
	if !keep {
		err = tx.Rollback()
		done(false)
		return err
	}
	if err := tx.Commit(); err != nil {
		done(false)
		return err
	}
	done(true)
	return nil
}

// A fixture is one strategy under test.
type fixture struct {
	memory.Strategy
	t  *testing.T
	db *sql.DB
}

func (f fixture) learn(experiences ...memory.Experience) {
	f.t.Helper()
	for _, e := range experiences {
		if err := f.Learn(f.t.Context(), e); err != nil {
			f.t.Fatalf("learn: %v", err)
		}
	}
}

func (f fixture) commit(keep bool) {
	f.t.Helper()
	if err := Commit(f.t.Context(), f.db, f.Strategy, keep); err != nil {
		f.t.Fatalf("commit: %v", err)
	}
}

func (f fixture) recall(scope, text string) memory.Recollection {
	f.t.Helper()
	r, err := f.Recall(f.t.Context(), memory.State{Scope: scope, Text: text})
	if err != nil {
		f.t.Fatalf("recall: %v", err)
	}
	return r
}

// texts are the texts of the tips that are recalled at a state.
func (f fixture) texts(scope, text string) []string {
	f.t.Helper()
	texts := []string{}
	for _, tip := range f.recall(scope, text).Tips {
		texts = append(texts, tip.Text)
	}
	return texts
}

// experience is an episode with a tip.
func experience(scope string, episode int, tip string, score float64, states ...string) memory.Experience {
	return memory.Experience{
		Scope: scope, States: states,
		Tip: memory.Tip{Text: tip, Score: score, Step: 1, Group: 2, Episode: episode, Version: 3},
	}
}
