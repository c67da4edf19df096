package memory

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// A writer stores lessons within one transaction.
type writer struct {
	tx       *sql.Tx
	capacity int
	clocks   map[string]int64    // of the changed scopes
	states   map[[2]string]int64 // ids of the states that were written, by scope and text

	addEpisode, findState, addState, visitState, findTips, addTip, deleteEntry, addEntry *sql.Stmt
}

func (b *Bank) newWriter(ctx context.Context, tx *sql.Tx) (*writer, error) {
	w := &writer{tx: tx, capacity: b.config.Capacity, clocks: map[string]int64{}, states: map[[2]string]int64{}}
	if err := b.claim(ctx, tx); err != nil {
		return nil, err
	}
	for statement, query := range map[**sql.Stmt]string{
		&w.addEpisode: addEpisode,
		&w.findState:  `SELECT id FROM memory_states WHERE scope = ? AND text = ?`,
		&w.addState: `INSERT INTO memory_states (scope, text, vector, visits, visited, checksum)
			VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
		&w.visitState: `UPDATE memory_states SET visits = visits + ?, visited = ? WHERE id = ?`,
		&w.findTips:   `SELECT count(*), coalesce(max(pinned), 0) FROM memory_tips WHERE scope = ? AND text = ?`,
		&w.addTip: `INSERT INTO memory_tips (scope, text, score, step, group_index, episode, version, checksum, pinned)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		&w.deleteEntry: `DELETE FROM memory_entries WHERE state = ? AND tip IN
			(SELECT id FROM memory_tips WHERE scope = ? AND text = ?)`,
		&w.addEntry: `INSERT INTO memory_entries (scope, state, tip) VALUES (?, ?, ?)`,
	} {
		prepared, err := tx.PrepareContext(ctx, query)
		if err != nil {
			w.close()
			return nil, fmt.Errorf("prepare to write: %w", err)
		}
		*statement = prepared
	}
	return w, nil
}

// claim writes the embedder's name into an empty bank. In any other bank it
// checks the name.
func (b *Bank) claim(ctx context.Context, tx *sql.Tx) error {
	name := b.config.Embedder.Name()
	_, err := tx.ExecContext(ctx,
		`INSERT INTO memory_meta (key, value) VALUES ('embedder', ?) ON CONFLICT DO NOTHING`, name)
	if err != nil {
		return fmt.Errorf("write the embedder's name: %w", err)
	}
	return checkEmbedder(ctx, tx, name)
}

func (w *writer) close() {
	for _, s := range []*sql.Stmt{w.addEpisode, w.findState, w.addState, w.visitState, w.findTips, w.addTip, w.deleteEntry,
		w.addEntry} {
		if s != nil {
			s.Close()
		}
	}
}

const addEpisode = `INSERT INTO memory_episodes (step, group_index, episode) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`

// First records that the episode that t names is learnt. It reports whether the
// database did not have it yet. An episode without a step is always new.
func First(ctx context.Context, tx Database, t Tip) (bool, error) {
	return firstBy(t, func(args ...any) (sql.Result, error) { return tx.ExecContext(ctx, addEpisode, args...) })
}

// first is [First] with a prepared statement.
func (w *writer) first(ctx context.Context, t Tip) (bool, error) {
	return firstBy(t, func(args ...any) (sql.Result, error) { return w.addEpisode.ExecContext(ctx, args...) })
}

func firstBy(t Tip, add func(args ...any) (sql.Result, error)) (bool, error) {
	if t.Step == 0 {
		return true, nil
	}
	done, err := add(t.Step, t.Group, t.Episode)
	if err != nil {
		return false, fmt.Errorf("record episode %d/%d of step %d: %w", t.Group, t.Episode, t.Step, err)
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// Learnt reports whether [First] has recorded the episode that t names.
func Learnt(ctx context.Context, db Database, t Tip) (known bool, err error) {
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM memory_episodes
		WHERE step = ? AND group_index = ? AND episode = ?`, t.Step, t.Group, t.Episode).Scan(&known)
	if err != nil {
		return false, fmt.Errorf("look up episode %d/%d of step %d: %w", t.Group, t.Episode, t.Step, err)
	}
	return known, nil
}

// write stores one lesson.
func (w *writer) write(ctx context.Context, l lesson) error {
	clock, err := w.tick(ctx, l.scope)
	if err != nil {
		return err
	}
	states := make([]int64, len(l.states))
	for i, s := range l.states {
		if states[i], err = w.writeState(ctx, l.scope, s, clock); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
	}
	if l.tip.Text == "" {
		return nil
	}
	return w.writeTip(ctx, l.tip, states)
}

// writeState adds a state that the scope does not have yet, and counts its visits. It
// returns the state's id. Most states of an episode are known.
func (w *writer) writeState(ctx context.Context, scope string, s visited, clock int64) (int64, error) {
	key := [2]string{scope, s.text}
	id, known := w.states[key]
	if !known {
		err := w.findState.QueryRowContext(ctx, scope, s.text).Scan(&id)
		if errors.Is(err, sql.ErrNoRows) {
			blob := vectorBlob(s.vector)
			err = w.addState.QueryRowContext(ctx, scope, s.text, blob, s.visits, clock,
				stateChecksum(scope, s.text, blob)).Scan(&id)
			w.states[key] = id
			return id, err
		}
		if err != nil {
			return 0, err
		}
		w.states[key] = id
	}
	if s.visits == 0 {
		return id, nil
	}
	_, err := w.visitState.ExecContext(ctx, s.visits, clock, id)
	return id, err
}

// writeTip stores a tip under its states. It replaces equal tips there.
func (w *writer) writeTip(ctx context.Context, t Tip, states []int64) error {
	var equal, pinned int
	if err := w.findTips.QueryRowContext(ctx, t.Scope, t.Text).Scan(&equal, &pinned); err != nil {
		return fmt.Errorf("find equal tips: %w", err)
	}
	for _, state := range states {
		if equal == 0 {
			break
		}
		if _, err := w.deleteEntry.ExecContext(ctx, state, t.Scope, t.Text); err != nil {
			return fmt.Errorf("replace entry: %w", err)
		}
	}
	added, err := w.addTip.ExecContext(ctx, t.Scope, t.Text, t.Score, t.Step, t.Group, t.Episode, t.Version,
		t.checksum(), pinned)
	if err != nil {
		return fmt.Errorf("write tip: %w", err)
	}
	id, err := added.LastInsertId()
	if err != nil {
		return fmt.Errorf("write tip: %w", err)
	}
	for _, state := range states {
		if _, err := w.addEntry.ExecContext(ctx, t.Scope, state, id); err != nil {
			return fmt.Errorf("write entry: %w", err)
		}
	}
	return nil
}

// tick advances the clock of a scope. The clock orders the visits of states.
func (w *writer) tick(ctx context.Context, scope string) (int64, error) {
	if err := w.touch(ctx, scope); err != nil {
		return 0, err
	}
	w.clocks[scope]++
	return w.clocks[scope], nil
}

// touch marks a scope as changed.
func (w *writer) touch(ctx context.Context, scope string) error {
	if _, ok := w.clocks[scope]; !ok {
		var last int64
		err := w.tx.QueryRowContext(ctx,
			`SELECT coalesce(max(visited), 0) FROM memory_states WHERE scope = ?`, scope).Scan(&last)
		if err != nil {
			return fmt.Errorf("read the clock: %w", err)
		}
		w.clocks[scope] = last
	}
	return nil
}

// finish prunes the changed scopes and returns them.
func (w *writer) finish(ctx context.Context) ([]string, error) {
	scopes := slices.Sorted(maps.Keys(w.clocks))
	for _, scope := range scopes {
		if err := w.prune(ctx, scope); err != nil {
			return nil, fmt.Errorf("prune scope %q: %w", scope, err)
		}
	}
	return scopes, nil
}

// prune deletes the oldest entries above the capacity whose tip is not pinned, then the tips without an
// entry, and the states without an entry or a recent visit.
func (w *writer) prune(ctx context.Context, scope string) error {
	_, err := w.tx.ExecContext(ctx, `DELETE FROM memory_entries WHERE scope = ?1 AND id <=
		(SELECT id FROM memory_entries WHERE scope = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)
		AND tip NOT IN (SELECT id FROM memory_tips WHERE scope = ?1 AND pinned)`, scope, w.capacity)
	if err != nil {
		return fmt.Errorf("delete entries: %w", err)
	}
	_, err = w.tx.ExecContext(ctx, `DELETE FROM memory_tips WHERE scope = ? AND NOT EXISTS
		(SELECT 1 FROM memory_entries WHERE tip = memory_tips.id)`, scope)
	if err != nil {
		return fmt.Errorf("delete tips: %w", err)
	}
	_, err = w.tx.ExecContext(ctx, `DELETE FROM memory_states WHERE scope = ?1
		AND NOT EXISTS (SELECT 1 FROM memory_entries WHERE state = memory_states.id)
		AND id NOT IN (SELECT id FROM memory_states WHERE scope = ?1 AND visits > 0
			ORDER BY visited DESC, id DESC LIMIT ?2)`,
		scope, w.capacity)
	if err != nil {
		return fmt.Errorf("delete states: %w", err)
	}
	return nil
}
