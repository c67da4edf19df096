// Package ledger records what happened in a run, exactly once, in its folder.
// run.db (SQLite) holds the plan of every step, every finished episode, the
// committed steps with their metrics, evaluations and events. The trainer writes
// the folders adapters/ and checkpoints/ beside it.
//
// A step is committed in one transaction ([Ledger.Commit]). What the memory
// learnt is part of it, so that weights and memory never disagree. Episodes are
// durable as soon as they are finished, so a killed run keeps them. WAL with
// synchronous=NORMAL survives the death of every process. A power cut may lose
// the transactions since the last [Ledger.Prune], which makes all of them
// durable before it removes older files.
package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

//go:embed schema.sql
var schema embed.FS

// schemaVersion is stored in the database. Open rejects any other version.
const schemaVersion = 1

// Ledger is one open run folder. It is safe for concurrent use. A second Open
// of the same folder fails with ErrInUse, also in another process.
type Ledger struct {
	Dir  string
	db   *sql.DB
	lock *os.File
}

// ErrInUse is wrapped by Open if another process has the run open.
var ErrInUse = errors.New("the run is in use by another process")

// Open opens or creates the run in dir.
func Open(ctx context.Context, dir string) (*Ledger, error) {
	for _, d := range []string{dir, filepath.Join(dir, "adapters"), filepath.Join(dir, "checkpoints")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("run folder: %w\n  hint: choose a writable folder with run.dir", err)
		}
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", dir, err)
	}
	db, err := openDB(ctx, filepath.Join(dir, "run.db"))
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &Ledger{Dir: dir, db: db, lock: lock}, nil
}

func openDB(ctx context.Context, path string) (*sql.DB, error) {
	const options = "?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10000)" +
		"&_pragma=foreign_keys(1)&_txlock=immediate"
	db, err := sql.Open("sqlite", "file:"+path+options)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer: no SQLITE_BUSY inside the process
	if err := migrate(ctx, db); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, explain(err))
	}
	return db, nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	var version int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version == schemaVersion {
		return nil
	}
	if version != 0 {
		return fmt.Errorf("its format is %d, this empo2 reads %d\n"+
			"  hint: use the empo2 that wrote it, or another run.name", version, schemaVersion)
	}
	text, err := schema.ReadFile("schema.sql")
	if err != nil {
		return err
	}
	script := fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;", text, schemaVersion)
	_, err = db.ExecContext(ctx, script)
	return err
}

// explain adds a hint to errors of SQLite that have a remedy.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "SQLITE_FULL"), strings.Contains(err.Error(), "disk is full"):
		return fmt.Errorf("%w\n  hint: the disk is full; free some space and run the same command again; "+
			"nothing that was committed is lost", err)
	case strings.Contains(err.Error(), "not a database"), strings.Contains(err.Error(), "malformed"):
		return fmt.Errorf("%w\n  hint: the file is damaged or is not the database of a run; "+
			"choose another run.name", err)
	}
	return err
}

// DB is the database. Other packages may keep tables of their own in it, as the
// memory does. It has a single connection: a query during a transaction blocks.
func (l *Ledger) DB() *sql.DB { return l.db }

// Close closes the database and releases the run.
func (l *Ledger) Close() error {
	return errors.Join(l.db.Close(), l.lock.Close())
}

// Config returns the recorded configuration of the run, "" if the run is new.
func (l *Ledger) Config(ctx context.Context) (string, error) {
	var text string
	err := l.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE key = 'config'").Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return text, explain(err)
}

// SaveConfig records the resolved configuration in the database and, for people,
// in config.toml beside it.
func (l *Ledger) SaveConfig(ctx context.Context, text string) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO meta(key, value) VALUES('config', ?)
		ON CONFLICT(key) DO UPDATE SET value = excluded.value`, text)
	if err != nil {
		return fmt.Errorf("save configuration: %w", explain(err))
	}
	path := filepath.Join(l.Dir, "config.toml")
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return os.Rename(path+".new", path)
}

// Event records something worth knowing about the run, for example that it was
// continued, or that a trainer or server was restarted.
func (l *Ledger) Event(ctx context.Context, step int64, kind, detail string) error {
	_, err := l.db.ExecContext(ctx, "INSERT INTO events(step, at, kind, detail) VALUES(?, ?, ?, ?)",
		step, now(), kind, detail)
	return explain(err)
}

// LastEvent returns the detail of the newest event of a kind, "" if there is
// none.
func (l *Ledger) LastEvent(ctx context.Context, kind string) (string, error) {
	var detail string
	row := l.db.QueryRowContext(ctx, "SELECT detail FROM events WHERE kind = ? ORDER BY id DESC LIMIT 1", kind)
	err := row.Scan(&detail)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return detail, explain(err)
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }
