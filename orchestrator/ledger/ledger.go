// Package ledger records what happened in a run, exactly once, in its folder.
// run.db (SQLite) holds the plan of every step, every finished episode, the
// committed steps with their metrics, evaluations and events. The trainer writes
// the folders adapters/ and checkpoints/ beside it.
//
// A step is committed in one transaction ([Ledger.Commit]). What the memory
// learnt is part of it, so that weights and memory never disagree.
//
// # What survives
//
// Episodes are stored as soon as they are finished, so a killed run keeps them.
// A power cut may lose the episodes of the step that was not committed yet: WAL
// with synchronous=NORMAL flushes them to disk at the next checkpoint of the WAL.
// [Ledger.Prune] makes that checkpoint after every commit and before it removes
// older files.
//
// # Damage
//
// Every row has a checksum, which is verified whenever the row is read, and the number
// of rows of each table is recorded with every change. Adapters
// and checkpoints have manifests (package manifest). [Verify] checks all of it,
// [Ledger.QuickCheck] a part that takes little time. [Return] goes back to an
// earlier step, and [Backup] copies a run while it goes on.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Ledger is one open run folder. It is safe for concurrent use. A second Open
// of the same folder fails with ErrInUse, also in another process.
type Ledger struct {
	Dir string
	// Lost says what the last power cut or damage to the write-ahead log has
	// cost; empty: nothing.
	Lost string
	db   *sql.DB
	lock *os.File // nil: it is open for reading

	writes     writeQueue
	preparing  sync.Mutex
	statements map[string]*sql.Stmt // see prepared; nil: not yet

	filling sync.Mutex
	filled  bool // every episode has its facts
}

// ErrInUse is wrapped by Open if another process has the run open.
var ErrInUse = errors.New("the run is in use by another process")

// databaseName is the name of the database in a run's folder.
const databaseName = "run.db"

// Open opens or creates the run in dir. It refuses to create a database beside
// the files of an earlier run.
func Open(ctx context.Context, dir string) (*Ledger, error) {
	lock, err := claim(dir)
	if err != nil {
		return nil, err
	}
	l := &Ledger{Dir: dir, lock: lock}
	removeUnfinishedForks(filepath.Dir(filepath.Clean(dir)))
	if err := refuseStartOver(dir); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	path := filepath.Join(dir, databaseName)
	l.Lost = damagedWAL(path + "-wal")
	if l.db, err = openDB(ctx, path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if err := syncFolder(dir); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// claim creates the folders of a run and locks it.
func claim(dir string) (*os.File, error) {
	if err := makeFolders(dir); err != nil {
		return nil, fmt.Errorf("run folder: %w\n  hint: choose a writable folder with run.dir", err)
	}
	lock, err := lockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", dir, err)
	}
	return lock, nil
}

// DB is the database. Other packages may keep tables of their own in it, as the
// memory does. It has a single connection: a query during a transaction blocks.
func (l *Ledger) DB() *sql.DB { return l.db }

// Close closes the database and releases the run.
func (l *Ledger) Close() error {
	err := l.db.Close()
	if l.lock != nil { // a reader has none
		err = errors.Join(err, l.lock.Close())
	}
	return err
}

// Config returns the recorded configuration of the run, "" if the run is new.
func (l *Ledger) Config(ctx context.Context) (string, error) {
	return l.meta(ctx, "config")
}

// SaveConfig records the resolved configuration in the database and, for people,
// in config.toml beside it.
func (l *Ledger) SaveConfig(ctx context.Context, text string) error {
	err := l.add(ctx, "meta", tableNamed("meta").upsert(), "config", text)
	if err != nil {
		return fmt.Errorf("save configuration: %w", explain(err))
	}
	if err := writePrivate(filepath.Join(l.Dir, configName), []byte(text)); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	return nil
}

// meta returns a value of the table meta, "" if there is none.
func (l *Ledger) meta(ctx context.Context, key string) (string, error) {
	return readMeta(ctx, l.db, key)
}

func readMeta(ctx context.Context, from rowQueryer, key string) (string, error) {
	var value, sum string
	err := from.QueryRowContext(ctx, "SELECT value, checksum FROM meta WHERE key = ?", key).Scan(&value, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", explain(err)
	}
	return value, verify("entry "+key, sum, key, value)
}

// Event records something worth knowing about the run, for example that it was
// continued, or that a trainer or server was restarted.
func (l *Ledger) Event(ctx context.Context, step int64, kind, detail string) error {
	return explain(l.add(ctx, "events", "", step, now(), kind, detail))
}

// Event is something worth knowing about a run; see [Ledger.Event].
type Event struct {
	Step   int64  `json:"step"`
	At     string `json:"at"` // RFC 3339
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
}

// Events returns the newest events in order. limit is their largest number.
func (l *Ledger) Events(ctx context.Context, limit int) ([]Event, error) {
	rows, err := selectAll(ctx, l.db, "SELECT * FROM (SELECT id, step, at, kind, detail, checksum FROM events "+
		"ORDER BY id DESC LIMIT ?) ORDER BY id", 6, limit)
	if err != nil {
		return nil, explain(err)
	}
	out := make([]Event, len(rows))
	for i, r := range rows {
		if err := verify(fmt.Sprintf("event %v", r[0]), fmt.Sprint(r[5]), r[1:5]...); err != nil {
			return nil, err
		}
		step, _ := r[1].(int64)
		out[i] = Event{Step: step, At: fmt.Sprint(r[2]), Kind: fmt.Sprint(r[3]), Detail: fmt.Sprint(r[4])}
	}
	return out, nil
}

// CountEvents counts the events of a kind with this detail.
func (l *Ledger) CountEvents(ctx context.Context, kind, detail string) (n int, err error) {
	row := l.db.QueryRowContext(ctx, "SELECT count(*) FROM events WHERE kind = ? AND detail = ?", kind, detail)
	err = explain(row.Scan(&n))
	return n, err
}

// LastEvent returns the detail of the newest event of a kind, "" if there is
// none.
func (l *Ledger) LastEvent(ctx context.Context, kind string) (string, error) {
	var step int64
	var at, detail, sum string
	row := l.db.QueryRowContext(ctx,
		"SELECT step, at, detail, checksum FROM events WHERE kind = ? ORDER BY id DESC LIMIT 1", kind)
	err := row.Scan(&step, &at, &detail, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", explain(err)
	}
	return detail, verify("an event of step "+fmt.Sprint(step), sum, step, at, kind, detail)
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }
