package memory

import (
	"context"
	"database/sql"
	"fmt"
)

// An Execer is a *sql.DB or a *sql.Tx.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// A state is a key, a tip a sentence, an entry the pair of the two. The same
// state is stored once per scope, whatever the number of its entries. Ids
// grow with time and are never reused, so they order entries by recency.
// visits and visited (a clock per scope) count only with NoveltyStates.
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

// Migrate creates the tables of a [Bank] (their names begin with memory_)
// where they are missing. Running it again changes nothing.
func Migrate(ctx context.Context, db Execer) error {
	for _, statement := range schema {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("create the tables of the memory: %w", err)
		}
	}
	return nil
}
