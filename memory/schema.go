package memory

import (
	"context"
	"database/sql"
	"fmt"
)

// A Database is a *sql.DB or a *sql.Tx.
type Database interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// schema has these tables:
//
//   - memory_states: the keys. A state is stored once per scope. The columns
//     visits and visited (a clock per scope) are used if novelty counts states.
//   - memory_tips: the texts with their provenance.
//   - memory_entries: pairs of a state and a tip.
//   - memory_meta: the name of the embedder.
//   - memory_episodes: the episodes that were learnt.
//   - memory_cases: what strategies other than the bank store ([Case]).
//
// The column checksum of a tip and of a state is the SHA-256 of what never changes
// in the row. It is empty in rows that an earlier version wrote. The column pinned of a
// tip is set by hand ([Edit]).
//
// Ids increase and are never reused, so they order entries by recency.
var schema = []string{
	`CREATE TABLE IF NOT EXISTS memory_meta (
		key   TEXT PRIMARY KEY,
		value TEXT NOT NULL
	) STRICT`,
	`CREATE TABLE IF NOT EXISTS memory_states (
		id      INTEGER PRIMARY KEY AUTOINCREMENT,
		scope   TEXT NOT NULL,
		text    TEXT NOT NULL,
		vector  BLOB NOT NULL, -- float32, little-endian
		visits  INTEGER NOT NULL,
		visited INTEGER NOT NULL,
		UNIQUE (scope, text)
	) STRICT`,
	`CREATE TABLE IF NOT EXISTS memory_tips (
		id          INTEGER PRIMARY KEY AUTOINCREMENT,
		scope       TEXT NOT NULL,
		text        TEXT NOT NULL,
		score       REAL NOT NULL,
		step        INTEGER NOT NULL,
		group_index INTEGER NOT NULL,
		episode     INTEGER NOT NULL,
		version     INTEGER NOT NULL
	) STRICT`,
	`CREATE TABLE IF NOT EXISTS memory_episodes (
		step        INTEGER NOT NULL,
		group_index INTEGER NOT NULL,
		episode     INTEGER NOT NULL,
		PRIMARY KEY (step, group_index, episode)
	) STRICT, WITHOUT ROWID`,
	`CREATE TABLE IF NOT EXISTS memory_cases (
		id       INTEGER PRIMARY KEY AUTOINCREMENT,
		scope    TEXT NOT NULL,
		keys     TEXT NOT NULL, -- JSON
		vectors  BLOB NOT NULL, -- n vectors of float32, little-endian
		n        INTEGER NOT NULL,
		data     TEXT NOT NULL, -- JSON
		checksum TEXT NOT NULL
	) STRICT`,
	`CREATE INDEX IF NOT EXISTS memory_cases_scope ON memory_cases (scope, id)`,
	`CREATE INDEX IF NOT EXISTS memory_tips_text ON memory_tips (scope, text)`,
	`CREATE TABLE IF NOT EXISTS memory_entries (
		id    INTEGER PRIMARY KEY AUTOINCREMENT,
		scope TEXT NOT NULL,
		state INTEGER NOT NULL REFERENCES memory_states (id),
		tip   INTEGER NOT NULL REFERENCES memory_tips (id)
	) STRICT`,
	`CREATE INDEX IF NOT EXISTS memory_entries_scope ON memory_entries (scope, id)`,
	`CREATE INDEX IF NOT EXISTS memory_entries_state ON memory_entries (state, tip)`,
	`CREATE INDEX IF NOT EXISTS memory_entries_tip ON memory_entries (tip)`,
}

// Migrate creates the missing tables of a memory. Their names begin with memory_.
// A second call changes nothing.
func Migrate(ctx context.Context, db Database) error {
	for _, statement := range schema {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("create the tables of the memory: %w", err)
		}
	}
	for _, c := range []struct{ table, name, is string }{
		{"memory_states", "checksum", "TEXT NOT NULL DEFAULT ''"},
		{"memory_tips", "checksum", "TEXT NOT NULL DEFAULT ''"},
		{"memory_tips", "pinned", "INTEGER NOT NULL DEFAULT 0"},
	} {
		if err := addColumn(ctx, db, c.table, c.name, c.is); err != nil {
			return fmt.Errorf("add the column %s to the memory: %w", c.name, err)
		}
	}
	return nil
}

// addColumn adds a column that the first versions of the tables did not have.
func addColumn(ctx context.Context, db Database, table, name, is string) error {
	var n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?", table, name).Scan(&n)
	if err != nil || n > 0 {
		return err
	}
	_, err = db.ExecContext(ctx, "ALTER TABLE "+table+" ADD COLUMN "+name+" "+is)
	return err
}
