package memory

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
)

// refresh returns the scope as it is in the database. See refreshIn.
func (x *index) refresh(ctx context.Context, db *sql.DB, scope string) (*index, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("begin reading: %w", err)
	}
	defer tx.Rollback() // nothing was written
	return x.refreshIn(ctx, tx, scope)
}

// refreshIn returns the scope as a transaction sees it. It takes from x what has not
// changed: a row of a state, a tip or an entry is never written again, apart from the
// number of visits, and ids are never reused. So it reads the ids of all rows, and all of
// the new rows. If x is empty, it reads everything. New vectors are appended to those of
// x, so that only one index may follow x in this way; see apart.
func (x *index) refreshIn(ctx context.Context, tx *sql.Tx, scope string) (*index, error) {
	next := &index{tips: make(map[int64]*Tip, len(x.tips)), recent: newRecollections()}
	rowOf, err := next.keepStates(ctx, tx, scope, x)
	if err == nil {
		err = next.loadStates(ctx, tx, scope, x.lastState(), rowOf)
	}
	if err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	if err := next.loadTips(ctx, tx, scope, x); err != nil {
		return nil, fmt.Errorf("read tips: %w", err)
	}
	if err := next.loadEntries(ctx, tx, scope, rowOf, x.tips); err != nil {
		return nil, fmt.Errorf("read tips: %w", err)
	}
	return next, nil
}

// apart returns the scope with vectors that cannot be appended in place.
func (x *index) apart() *index {
	out := *x
	out.matrix.Data = slices.Clip(out.matrix.Data)
	return &out
}

// lastState is the largest id of a state, 0 if there is none.
func (x *index) lastState() int64 {
	if len(x.rows) == 0 {
		return 0
	}
	return x.rows[len(x.rows)-1].id
}

// keepStates takes the states of old that still exist, with their present visits. It
// returns the row number of each state by the state's id.
func (x *index) keepStates(ctx context.Context, tx *sql.Tx, scope string, old *index) (map[int64]int, error) {
	rowOf := make(map[int64]int, len(old.rows))
	if len(old.rows) == 0 {
		return rowOf, nil
	}
	rows, err := tx.QueryContext(ctx,
		`SELECT id, visits FROM memory_states WHERE scope = ? AND id <= ? ORDER BY id`, scope, old.lastState())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	x.matrix = old.matrix
	whole, at := true, 0 // whole: no state of old is gone so far
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.visits); err != nil {
			return nil, err
		}
		for at < len(old.rows) && old.rows[at].id < r.id {
			at++
		}
		if at == len(old.rows) || old.rows[at].id != r.id {
			return nil, fmt.Errorf("%w: state %d appeared among older ones", ErrDamaged, r.id)
		}
		if whole && at != len(x.rows) {
			whole = false
			x.matrix.Data = slices.Clone(old.matrix.Data[:len(x.rows)*old.matrix.Stride])
		}
		if !whole {
			x.matrix.Data = append(x.matrix.Data, old.matrix.Data[at*old.matrix.Stride:][:old.matrix.Cols]...)
		}
		rowOf[r.id] = len(x.rows)
		x.rows = append(x.rows, r)
	}
	x.matrix.Rows = len(x.rows)
	if n := x.matrix.Rows * x.matrix.Stride; n < len(x.matrix.Data) {
		x.matrix.Data = x.matrix.Data[:n:n] // new rows must not overwrite those of old
	}
	return rowOf, rows.Err()
}

// loadTips takes the tips of old and reads the new ones.
func (x *index) loadTips(ctx context.Context, tx *sql.Tx, scope string, old *index) error {
	x.lastTip = old.lastTip
	rows, err := tx.QueryContext(ctx, `SELECT t.checksum, `+tipColumns+`
		FROM memory_tips t WHERE t.scope = ? AND t.id > ? ORDER BY t.id`, scope, old.lastTip)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var tip Tip
		var sum string
		if err := rows.Scan(append([]any{&sum}, tipFields(&tip)...)...); err != nil {
			return err
		}
		if sum != "" && sum != tip.checksum() {
			return fmt.Errorf("%w: tip %d differs from its checksum", ErrDamaged, tip.ID)
		}
		x.tips[tip.ID], x.lastTip = &tip, tip.ID
	}
	return rows.Err()
}

// loadEntries reads the pairs of states and tips. known are tips of an earlier time.
func (x *index) loadEntries(
	ctx context.Context, tx *sql.Tx, scope string, rowOf map[int64]int, known map[int64]*Tip,
) error {
	rows, err := tx.QueryContext(ctx,
		`SELECT id, state, tip FROM memory_entries WHERE scope = ? ORDER BY id`, scope)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var e entry
		var state, tip int64
		if err := rows.Scan(&e.id, &state, &tip); err != nil {
			return err
		}
		if e.tip = x.tips[tip]; e.tip == nil {
			e.tip = known[tip]
		}
		if e.tip == nil {
			return fmt.Errorf("entry %d belongs to tip %d, which does not exist", e.id, tip)
		}
		x.tips[tip], e.score = e.tip, e.tip.Score
		i, ok := rowOf[state]
		if !ok {
			return fmt.Errorf("entry %d belongs to state %d, which does not exist", e.id, state)
		}
		x.rows[i].entries = append(x.rows[i].entries, e)
	}
	return rows.Err()
}
