package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
)

// Episode is one finished training episode. Trajectory is JSON; the other
// fields repeat parts of it for queries.
type Episode struct {
	Step           int64
	Group, Episode int
	Task, Mode     string
	Version        int
	Stop           string
	EnvReturn      float64
	Score          float64
	Success        bool
	Trajectory     json.RawMessage
}

// Version is an adapter that was published and passed its canary.
type Version struct {
	Version int     `json:"version"`
	Step    int64   `json:"step"`
	Dir     string  `json:"dir"`
	SHA256  string  `json:"sha256"`
	Canary  float64 `json:"canary"` // largest difference of log-probs, nats
}

// Step is one committed step. Metrics is JSON.
type Step struct {
	Step    int64           `json:"step"`
	Version int             `json:"version"` // of the policy after the step
	At      string          `json:"at"`
	Metrics json.RawMessage `json:"metrics"`
}

// Plan returns the plan of a step, nil if none was written.
func (l *Ledger) Plan(ctx context.Context, step int64) (json.RawMessage, error) {
	var text []byte
	err := l.db.QueryRowContext(ctx, "SELECT plan FROM plans WHERE step = ?", step).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return text, explain(err)
}

// SavePlan writes the plan of a step that has none.
func (l *Ledger) SavePlan(ctx context.Context, step int64, plan json.RawMessage) error {
	_, err := l.db.ExecContext(ctx, "INSERT INTO plans(step, plan) VALUES(?, ?)", step, string(plan))
	if err != nil {
		return fmt.Errorf("save plan of step %d: %w", step, explain(err))
	}
	return nil
}

// AddEpisode makes one finished episode durable. Adding it twice is an error.
func (l *Ledger) AddEpisode(ctx context.Context, e Episode) error {
	_, err := l.db.ExecContext(ctx, `INSERT INTO episodes
		(step, grp, episode, task, mode, version, stop, env_return, score, success, trajectory)
		VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.Step, e.Group, e.Episode, e.Task, e.Mode, e.Version, e.Stop, e.EnvReturn, e.Score, e.Success,
		string(e.Trajectory))
	if err != nil {
		return fmt.Errorf("save episode %d/%d/%d: %w", e.Step, e.Group, e.Episode, explain(err))
	}
	return nil
}

// UpdateEpisode replaces the trajectory of an episode by one that holds its tip.
func (l *Ledger) UpdateEpisode(ctx context.Context, step int64, group, episode int, trajectory json.RawMessage) error {
	_, err := l.db.ExecContext(ctx, "UPDATE episodes SET trajectory = ? WHERE step = ? AND grp = ? AND episode = ?",
		string(trajectory), step, group, episode)
	if err != nil {
		return fmt.Errorf("save the tip of episode %d/%d/%d: %w", step, group, episode, explain(err))
	}
	return nil
}

// Episodes returns the finished episodes of a step, ordered by group and
// number.
func (l *Ledger) Episodes(ctx context.Context, step int64) ([]Episode, error) {
	rows, err := l.db.QueryContext(ctx, `SELECT
		step, grp, episode, task, mode, version, stop, env_return, score, success, trajectory
		FROM episodes WHERE step = ? ORDER BY grp, episode`, step)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Episode
	for rows.Next() {
		var e Episode
		var text []byte
		err := rows.Scan(&e.Step, &e.Group, &e.Episode, &e.Task, &e.Mode, &e.Version, &e.Stop, &e.EnvReturn,
			&e.Score, &e.Success, &text)
		if err != nil {
			return nil, err
		}
		e.Trajectory = text
		out = append(out, e)
	}
	return out, explain(rows.Err())
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

func (l *Ledger) steps(ctx context.Context, tail string) ([]Step, error) {
	rows, err := l.db.QueryContext(ctx, "SELECT step, version, at, metrics FROM steps "+tail)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []Step
	for rows.Next() {
		var s Step
		var text []byte
		if err := rows.Scan(&s.Step, &s.Version, &s.At, &text); err != nil {
			return nil, err
		}
		s.Metrics = text
		out = append(out, s)
	}
	return out, explain(rows.Err())
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
	_, err = tx.ExecContext(ctx, "INSERT INTO steps(step, version, at, metrics) VALUES(?, ?, ?, ?)",
		s.Step, s.Version, now(), string(s.Metrics))
	if err != nil {
		return fail(err)
	}
	if v != nil {
		_, err = tx.ExecContext(ctx, "INSERT INTO versions(version, step, dir, sha256, canary) VALUES(?, ?, ?, ?, ?)",
			v.Version, v.Step, v.Dir, v.SHA256, v.Canary)
		if err != nil {
			return fail(err)
		}
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
