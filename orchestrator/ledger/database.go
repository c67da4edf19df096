package ledger

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"modernc.org/sqlite" // also the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema embed.FS

// schemaVersion is stored in the database. Open brings version 1, which had no
// checksums, version 2, which stored every episode as one JSON text, and version 3,
// which had larger checksums and no dictionary, to this one and rejects any other. The
// rows of version 3 stay as they are.
const (
	schemaVersion   = 4
	readableVersion = 3 // the oldest one that is read without bringing it up to date
)

// errEarlierFormat is the error of commands that only read a run of an earlier
// format.
var errEarlierFormat = errors.New("it was written by an earlier version of empo2\n" +
	"  hint: empo2 run or empo2 memory export opens the run and brings it up to date")

// The pragmas of a run's database. synchronous=NORMAL makes commits durable at a
// checkpoint of the WAL, which [Ledger.Prune] makes after every step. With secure_delete,
// what [Ledger.Slim] removes is overwritten with zeros.
const writing = "_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)&_pragma=busy_timeout(10000)" +
	"&_pragma=secure_delete(1)&_pragma=foreign_keys(1)&_txlock=immediate"

// errUnfinishedFile is the error of commands that only read a run that was killed
// while its database was created: SQLite must first roll the rest back.
var errUnfinishedFile = errors.New("the run was killed while its database was created\n" +
	"  hint: run the same empo2 run again; nothing had been stored")

// reading opens a database and changes nothing in it.
const reading = "mode=ro&_pragma=busy_timeout(10000)"

// dataSource returns the name of a database for the driver. A path may have any
// characters, also those that have a meaning in a URI.
func dataSource(path, options string) string {
	return "file:" + (&url.URL{Path: filepath.ToSlash(filepath.Clean(path))}).EscapedPath() + "?" + options
}

// intoFile returns the name of a new database for VACUUM INTO, which would take a
// relative name that begins with "file:" for a URI.
func intoFile(path string) (string, error) { return filepath.Abs(path) }

func openDB(ctx context.Context, path string) (*sql.DB, error) {
	if err := createPrivate(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db, err := connect(ctx, path, writing)
	if err != nil {
		return nil, err
	}
	err = migrate(ctx, db)
	if err == nil {
		_, err = db.ExecContext(ctx, factsSchema)
	}
	if err == nil {
		err = addPieceSums(ctx, db)
	}
	if err == nil {
		err = countOnce(ctx, db)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, explain(err))
	}
	return db, nil
}

// createPrivate creates a file that only its owner can read. SQLite gives its
// other files the same permissions.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// connect opens the database in a file and checks that it is this file.
func connect(ctx context.Context, path, options string) (*sql.DB, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file\n  hint: restore run.db from a backup", ErrDamaged, path)
	}
	db, err := sql.Open("sqlite", dataSource(path, options))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1) // one writer: no SQLITE_BUSY inside the process
	if err := isFile(ctx, db, path); err != nil {
		db.Close()
		return nil, fmt.Errorf("open %s: %w", path, explain(err))
	}
	return db, nil
}

// isFile returns an error if the database is in another file than path.
func isFile(ctx context.Context, db *sql.DB, path string) error {
	var opened string
	err := db.QueryRowContext(ctx, "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&opened)
	if err != nil {
		return err
	}
	is, err := os.Stat(opened)
	if err != nil {
		return err
	}
	want, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(is, want) {
		return fmt.Errorf("SQLite opened %s\n  hint: choose another run.dir or run.name", opened)
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	version, err := formatOf(ctx, db)
	switch {
	case err != nil:
		return err
	case version == schemaVersion:
		return nil
	case version >= readableVersion && version < schemaVersion:
		_, err := db.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
		return err
	case version == 1:
		return addChecksums(ctx, db)
	case version == 2:
		return addColumns(ctx, db)
	case version != 0:
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

// formatOf returns the format of a database, 0 if it is empty.
func formatOf(ctx context.Context, db *sql.DB) (version int, err error) {
	err = db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version)
	return version, err
}

type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// selectAll returns the rows of a query with n columns.
func selectAll(ctx context.Context, from queryer, query string, n int, args ...any) ([][]any, error) {
	rows, err := from.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]any
	for rows.Next() {
		values, into := make([]any, n), make([]any, n)
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		out = append(out, values)
	}
	return out, rows.Err()
}

// maxFindings is how many damaged places are listed.
const maxFindings = 5

// checkPages runs quick_check or integrity_check of SQLite.
func checkPages(ctx context.Context, db *sql.DB, pragma string) error {
	rows, err := selectAll(ctx, db, fmt.Sprintf("PRAGMA %s(%d)", pragma, maxFindings), 1)
	if err != nil {
		return explain(err)
	}
	var found []string
	for _, r := range rows {
		if text := fmt.Sprint(r[0]); text != "ok" {
			found = append(found, text)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return fmt.Errorf("%w: run.db: %s%s", ErrDamaged, strings.Join(found, "; "), checkHint)
}

// explain adds a hint to errors of SQLite that have a remedy.
func explain(err error) error {
	switch {
	case err == nil || errors.Is(err, ErrDamaged):
		return err
	case unfinishedFile(err):
		return errUnfinishedFile
	case strings.Contains(err.Error(), "SQLITE_FULL"), strings.Contains(err.Error(), "disk is full"):
		return fmt.Errorf("%w\n  hint: the disk is full; free some space and run the same command again; "+
			"nothing that was committed is lost", err)
	case strings.Contains(err.Error(), "not a database"), strings.Contains(err.Error(), "malformed"),
		strings.Contains(err.Error(), "no such table"), strings.Contains(err.Error(), "no such column"),
		strings.Contains(err.Error(), "SQLITE_CORRUPT"), strings.Contains(err.Error(), "unsupported file format"),
		strings.Contains(err.Error(), "SQLITE_IOERR_SHORT_READ"):
		return fmt.Errorf("%w: run.db: %w%s", ErrDamaged, err, checkHint)
	}
	return err
}

// unfinishedFile reports whether SQLite refused to read a database beside the
// journal of a process that was killed. A run has such a journal only until its
// database has a write-ahead log.
func unfinishedFile(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code() == sqlite3.SQLITE_READONLY_ROLLBACK
}
