package telemetry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/BurntSushi/toml"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// TrackioFile is the file of a trackio project: letters, digits, - and _ of its name.
func TrackioFile(project string) string {
	name := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_' {
			return r
		}
		return -1
	}, project)
	if name == "" {
		name = "default"
	}
	return name + ".db"
}

// trackioSchema has the tables of trackio's SQLite storage that a run needs, as trackio 0.43
// creates them. trackio adds the others when it opens the file, and brings the schema up to
// date (trackio/sqlite_storage.py, init_db).
const trackioSchema = `
CREATE TABLE IF NOT EXISTS metrics(
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, timestamp TEXT NOT NULL, run_name TEXT NOT NULL,
  step INTEGER NOT NULL, metrics TEXT NOT NULL, log_id TEXT, space_id TEXT);
CREATE TABLE IF NOT EXISTS configs(
  id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, run_name TEXT NOT NULL, config TEXT NOT NULL,
  created_at TEXT NOT NULL, UNIQUE(run_id));
CREATE INDEX IF NOT EXISTS idx_metrics_run_step ON metrics(run_id, step);
`

// Trackio writes runs to the file of a trackio project in a folder. A run that is in the file
// already is replaced; other runs of the project stay.
func Trackio(ctx context.Context, dir, project string, runs []Run) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, TrackioFile(project))
	if err := private(path); err != nil {
		return err
	}
	dsn := (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path),
		RawQuery: "_pragma=busy_timeout(10000)&_txlock=immediate"}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := writeTrackio(ctx, db, project, runs); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// private creates a file that only its owner reads, unless it exists.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func writeTrackio(ctx context.Context, db *sql.DB, project string, runs []Run) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, trackioSchema); err != nil {
		return err
	}
	for _, r := range runs {
		if err := writeTrackioRun(ctx, tx, project, r); err != nil {
			return fmt.Errorf("run %s: %w", r.Name, err)
		}
	}
	return tx.Commit()
}

func writeTrackioRun(ctx context.Context, tx *sql.Tx, project string, r Run) error {
	sum := sha256.Sum256([]byte(project + "\x00" + r.Name))
	id := hex.EncodeToString(sum[:16])
	for _, table := range []string{"metrics", "configs"} {
		if _, err := tx.ExecContext(ctx, "DELETE FROM "+table+" WHERE run_id = ?", id); err != nil {
			return err
		}
	}
	begun := ""
	for i, p := range r.rows() {
		if i == 0 {
			begun = stamp(p.At)
		}
		metrics, err := json.Marshal(p.values())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO metrics(run_id, timestamp, run_name, step, metrics, log_id) "+
			"VALUES(?, ?, ?, ?, ?, ?)", id, stamp(p.At), r.Name, p.Step, string(metrics), fmt.Sprintf("%s-%d", id, p.Step))
		if err != nil {
			return err
		}
	}
	config, err := r.keys()
	if err != nil {
		return err
	}
	config["_Created"], config["_Username"], config["_Group"] = begun, nil, nil // as trackio itself writes them
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO configs(run_id, run_name, config, created_at) VALUES(?, ?, ?, ?)",
		id, r.Name, string(text), begun)
	return err
}

// keys are the keys of the run's configuration, such as "loss.kl".
func (r Run) keys() (map[string]any, error) {
	var tables map[string]any
	if _, err := toml.Decode(r.Config, &tables); err != nil {
		return nil, fmt.Errorf("the configuration of run %s: %w", r.Name, err)
	}
	out := map[string]any{}
	flatten(out, "", tables)
	return out, nil
}

func flatten(out map[string]any, prefix string, table map[string]any) {
	for key, value := range table {
		if below, ok := value.(map[string]any); ok && len(below) > 0 {
			flatten(out, prefix+key+".", below)
			continue
		}
		out[prefix+key] = value
	}
}
