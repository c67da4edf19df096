package memory

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
)

// An index is one scope in RAM: the vectors of its states as the rows of a
// matrix, and the entries of each state. It is immutable.
type index struct {
	matrix blas32.General // rows × dimension, row-major
	rows   []row
}

// A row is one state.
type row struct {
	visits  int
	entries []entry // oldest first
}

// An entry is a tip under one of its states.
type entry struct {
	id  int64
	tip *Tip
}

// A match is a state whose cosine to the query is above the threshold.
type match struct {
	row    *row
	cosine float32
}

// similar compares v with every state of the scope (no approximation).
func (x *index) similar(v []float32, threshold float64) ([]match, error) {
	if len(x.rows) == 0 {
		return nil, nil
	}
	if len(v) != x.matrix.Cols {
		return nil, fmt.Errorf("the state has %d dimensions, the bank %d", len(v), x.matrix.Cols)
	}
	cosines := make([]float32, len(x.rows))
	blas32.Gemv(blas.NoTrans, 1, x.matrix,
		blas32.Vector{N: len(v), Data: v, Inc: 1}, 0,
		blas32.Vector{N: len(cosines), Data: cosines, Inc: 1})
	var matches []match
	for i, cosine := range cosines {
		if float64(cosine) > threshold {
			matches = append(matches, match{&x.rows[i], cosine})
		}
	}
	return matches, nil
}

// A cachedScope is a scope in the cache. Its lock makes concurrent episodes wait
// while one of them loads the scope.
type cachedScope struct {
	mu    sync.Mutex
	index *index // nil until it is loaded
}

// index returns the scope as of the last commit.
func (b *Bank) index(ctx context.Context, scope string) (*index, error) {
	s := b.cached(scope)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != nil {
		return s.index, nil
	}
	x, err := loadIndex(ctx, b.db, scope)
	if err != nil {
		return nil, err
	}
	s.index = x
	return x, nil
}

// cached returns the cache's entry of a scope. If the cache is full, the least
// recently used scope is dropped.
func (b *Bank) cached(scope string) *cachedScope {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.scopes.Get(scope)
	if !ok {
		s = &cachedScope{}
		b.scopes.Add(scope, s)
	}
	return s
}

func loadIndex(ctx context.Context, db *sql.DB, scope string) (*index, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("begin reading: %w", err)
	}
	defer tx.Rollback() // nothing was written
	return readIndex(ctx, tx, scope)
}

// readIndex reads a scope as a transaction sees it.
func readIndex(ctx context.Context, tx *sql.Tx, scope string) (*index, error) {
	x := &index{}
	rowOf, err := x.loadStates(ctx, tx, scope)
	if err != nil {
		return nil, fmt.Errorf("read states: %w", err)
	}
	if err := x.loadEntries(ctx, tx, scope, rowOf); err != nil {
		return nil, fmt.Errorf("read tips: %w", err)
	}
	return x, nil
}

// loadStates returns the row number of each state by the state's id.
func (x *index) loadStates(ctx context.Context, tx *sql.Tx, scope string) (map[int64]int, error) {
	rows, err := tx.QueryContext(ctx,
		`SELECT id, text, vector, visits, checksum FROM memory_states WHERE scope = ? ORDER BY id`, scope)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	rowOf := make(map[int64]int)
	m := &x.matrix
	for rows.Next() {
		var id int64
		var blob []byte
		var r row
		var text, sum string
		if err := rows.Scan(&id, &text, &blob, &r.visits, &sum); err != nil {
			return nil, err
		}
		if sum != "" && sum != stateChecksum(scope, text, blob) {
			return nil, fmt.Errorf("%w: state %d differs from its checksum", ErrDamaged, id)
		}
		if m.Rows > 0 && len(blob) != 4*m.Cols {
			return nil, fmt.Errorf("the vector of state %d has %d bytes, others have %d", id, len(blob), 4*m.Cols)
		}
		m.Rows, m.Cols, m.Stride = m.Rows+1, len(blob)/4, len(blob)/4
		m.Data = appendVector(m.Data, blob)
		rowOf[id] = len(x.rows)
		x.rows = append(x.rows, r)
	}
	return rowOf, rows.Err()
}

func (x *index) loadEntries(ctx context.Context, tx *sql.Tx, scope string, rowOf map[int64]int) error {
	rows, err := tx.QueryContext(ctx, `SELECT e.id, e.state, t.checksum, `+tipColumns+`
		FROM memory_entries e JOIN memory_tips t ON t.id = e.tip WHERE e.scope = ? ORDER BY e.id`, scope)
	if err != nil {
		return err
	}
	defer rows.Close()
	tips := make(map[int64]*Tip) // the entries of a tip share it
	for rows.Next() {
		var e entry
		var state int64
		var tip Tip
		var sum string
		if err := rows.Scan(append([]any{&e.id, &state, &sum}, tipFields(&tip)...)...); err != nil {
			return err
		}
		if sum != "" && sum != tip.checksum() {
			return fmt.Errorf("%w: tip %d differs from its checksum", ErrDamaged, tip.ID)
		}
		if tips[tip.ID] == nil {
			tips[tip.ID] = &tip
		}
		e.tip = tips[tip.ID]
		i, ok := rowOf[state]
		if !ok {
			return fmt.Errorf("entry %d belongs to state %d, which does not exist", e.id, state)
		}
		x.rows[i].entries = append(x.rows[i].entries, e)
	}
	return rows.Err()
}

const tipColumns = `t.id, t.scope, t.text, t.score, t.step, t.group_index, t.episode, t.version`

// tipFields are the targets of tipColumns.
func tipFields(t *Tip) []any {
	return []any{&t.ID, &t.Scope, &t.Text, &t.Score, &t.Step, &t.Group, &t.Episode, &t.Version}
}

func appendVector(data []float32, blob []byte) []float32 {
	for i := 0; i+4 <= len(blob); i += 4 {
		data = append(data, math.Float32frombits(binary.LittleEndian.Uint32(blob[i:])))
	}
	return data
}

func vectorBlob(v []float32) []byte {
	blob := make([]byte, 0, 4*len(v))
	for _, f := range v {
		blob = binary.LittleEndian.AppendUint32(blob, math.Float32bits(f))
	}
	return blob
}
