package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/empo2/empo2/orchestrator/manifest"
)

// Version is an adapter that was published and passed its canary.
type Version struct {
	Version int     `json:"version"`
	Step    int64   `json:"step"`
	Dir     string  `json:"dir"`
	Canary  float64 `json:"canary"` // largest difference of log-probs, nats
	// Files are the SHA-256 of the adapter's files by their names.
	Files map[string]string `json:"files"`
	// Checkpoint is the SHA-256 of the checkpoint's manifest, set by
	// [Ledger.Commit]. Empty: the version was committed before it was recorded.
	Checkpoint string `json:"checkpoint"`
}

// Step is one committed step. Metrics is JSON.
type Step struct {
	Step    int64           `json:"step"`
	Version int             `json:"version"` // of the policy after the step
	At      string          `json:"at"`
	Metrics json.RawMessage `json:"metrics"`
	// Estimates are written by [Ledger.Commit]; those that read steps leave it nil.
	Estimates []Estimate `json:"-"`

	content string // see contentOf
}

// Plan returns the plan of a step, nil if none was written.
func (l *Ledger) Plan(ctx context.Context, step int64) (json.RawMessage, error) {
	var stored any
	var sum string
	err := l.db.QueryRowContext(ctx, "SELECT plan, checksum FROM plans WHERE step = ?", step).Scan(&stored, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, explain(err)
	}
	if err := verify(fmt.Sprintf("the plan of step %d", step), sum, step, stored); err != nil {
		return nil, err
	}
	text, err := inflate(stored)
	if err != nil {
		return nil, unreadable("plans", err)
	}
	return text, nil
}

// SavePlan writes the plan of a step that has none.
func (l *Ledger) SavePlan(ctx context.Context, step int64, plan json.RawMessage) error {
	err := l.add(ctx, "plans", "", step, compressText(plan))
	if err != nil {
		return fmt.Errorf("save plan of step %d: %w", step, explain(err))
	}
	return nil
}

// ExtendPlan replaces the plan of a step by one that has more groups.
func (l *Ledger) ExtendPlan(ctx context.Context, step int64, plan json.RawMessage) error {
	err := l.add(ctx, "plans", tableNamed("plans").upsert(), step, plan)
	if err != nil {
		return fmt.Errorf("extend the plan of step %d: %w", step, explain(err))
	}
	return nil
}

// unreadable explains the error of a row whose values have other types than they
// were written with.
func unreadable(table string, err error) error {
	return fmt.Errorf("%w: a row of %s in run.db cannot be read: %w%s", ErrDamaged, table, err, checkHint)
}

// Last returns the newest committed step; Step 0 with version 0 if there is
// none.
func (l *Ledger) Last(ctx context.Context) (Step, error) {
	steps, err := l.steps(ctx, "ORDER BY step DESC LIMIT 1")
	if err != nil || len(steps) == 0 {
		return Step{}, err
	}
	return steps[0], nil
}

// Steps returns all committed steps in order.
func (l *Ledger) Steps(ctx context.Context) ([]Step, error) {
	return l.steps(ctx, "ORDER BY step")
}

// StepsAfter returns the committed steps after a step, in order.
func (l *Ledger) StepsAfter(ctx context.Context, step int64) ([]Step, error) {
	return readSteps(ctx, l.db, "WHERE step > ? ORDER BY step", step)
}

func (l *Ledger) steps(ctx context.Context, tail string) ([]Step, error) {
	return readSteps(ctx, l.db, tail)
}

// readSteps reads and verifies steps. tail is the end of the query.
func readSteps(ctx context.Context, from queryer, tail string, args ...any) ([]Step, error) {
	rows, err := from.QueryContext(ctx, "SELECT "+tableNamed("steps").list()+" FROM steps "+tail, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Step
	for rows.Next() {
		var s Step
		var text []byte
		var sum string
		if err := rows.Scan(&s.Step, &s.Version, &s.At, &text, &s.content, &sum); err != nil {
			return nil, unreadable("steps", err)
		}
		s.Metrics = text
		if err := verify(fmt.Sprintf("step %d", s.Step), sum, s.Step, s.Version, s.At, s.Metrics, s.content); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, explain(rows.Err())
}

// version returns the record of a version. A version that was never committed has
// only its number.
func (l *Ledger) version(ctx context.Context, version int) (Version, error) {
	all, err := readVersions(ctx, l.db, "WHERE version = ?", version)
	if err != nil || len(all) == 0 {
		return Version{Version: version}, err
	}
	return all[0], nil
}

func readVersions(ctx context.Context, from queryer, tail string, args ...any) ([]Version, error) {
	rows, err := from.QueryContext(ctx, "SELECT "+tableNamed("versions").list()+" FROM versions "+tail, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Version
	for rows.Next() {
		var v Version
		var sha256, files, sum string
		if err := rows.Scan(&v.Version, &v.Step, &v.Dir, &sha256, &v.Canary, &files, &v.Checkpoint, &sum); err != nil {
			return nil, unreadable("versions", err)
		}
		err := verify(fmt.Sprintf("version %d", v.Version), sum,
			v.Version, v.Step, v.Dir, sha256, v.Canary, files, v.Checkpoint)
		if err == nil {
			err = json.Unmarshal([]byte(files), &v.Files)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, explain(rows.Err())
}

// saveVersion records a version with the checksums of its files.
func saveVersion(ctx context.Context, tx execer, v Version) error {
	files := v.Files
	if files == nil {
		files = map[string]string{}
	}
	text, err := json.Marshal(files)
	if err != nil {
		return err
	}
	return insert(ctx, tx, "versions", "", v.Version, v.Step, v.Dir, files["adapter_model.safetensors"], v.Canary,
		string(text), v.Checkpoint)
}

// Commit commits a step in one transaction: its metrics, the version it produced
// (nil if the weights did not change) and what with writes (nil: nothing). If
// with fails, nothing is written.
func (l *Ledger) Commit(ctx context.Context, s Step, v *Version, with func(*sql.Tx) error) error {
	fail := func(err error) error { return fmt.Errorf("commit step %d: %w", s.Step, explain(err)) }
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return fail(err)
	}
	defer tx.Rollback() // no effect after Commit
	content, err := contentOf(ctx, tx, s.Step)
	if err != nil {
		return fail(err)
	}
	err = insert(ctx, tx, "steps", "", s.Step, s.Version, now(), s.Metrics, checksum(content...))
	if err != nil {
		return fail(err)
	}
	added := map[string]int64{"steps": 1, "estimates": int64(len(s.Estimates))}
	if err := addEstimates(ctx, tx, s); err != nil {
		return fail(err)
	}
	if v != nil {
		record := *v
		m, err := manifest.Read(checkpoints(l.Dir).entry(v.Version), manifest.Checkpoint)
		if err != nil {
			return fail(err)
		}
		record.Checkpoint = m.SHA256
		if err := saveVersion(ctx, tx, record); err != nil {
			return fail(err)
		}
		added["versions"] = 1
	}
	if err := count(ctx, tx, added); err != nil {
		return fail(err)
	}
	if with != nil {
		if err := with(tx); err != nil {
			return fail(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return fail(err)
	}
	return nil
}

func addEstimates(ctx context.Context, tx *sql.Tx, s Step) error {
	if len(s.Estimates) == 0 {
		return nil
	}
	statement, err := tx.PrepareContext(ctx, tableNamed("estimates").insertion(""))
	if err != nil {
		return err
	}
	defer statement.Close()
	for _, e := range s.Estimates {
		values := e.values(s.Step)
		if _, err := statement.ExecContext(ctx, append(plainValues(values), checksum(values...))...); err != nil {
			return err
		}
	}
	return nil
}
