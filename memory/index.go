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
// matrix, and the entries of each state. It is immutable, apart from recent.
type index struct {
	matrix blas32.General // rows × dimension, row-major
	rows   []row          // by id
	tips   map[int64]*Tip // those with an entry, by id
	// lastTip is the largest id of a tip that was read.
	lastTip int64
	recent  *recollections
}

// A row is one state.
type row struct {
	id      int64
	visits  int
	entries []entry // oldest first
}

// An entry is a tip under one of its states.
type entry struct {
	id    int64
	score float64 // of the tip
	tip   *Tip
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
	stale bool   // a commit has changed the scope since
}

// index returns the scope as of the last commit.
func (b *Bank) index(ctx context.Context, scope string) (*index, error) {
	s := b.cached(scope)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index != nil && !s.stale {
		return s.index, nil
	}
	old := s.index
	if old == nil {
		old = &index{}
	}
	x, err := old.refresh(ctx, b.db, scope)
	if err != nil {
		s.index = nil // the next try reads everything
		return nil, err
	}
	s.index, s.stale = x, false
	return x, nil
}

// kept returns the scope in RAM as it was after some commit, to refresh it apart from
// the cache; an empty one if it is not in RAM.
func (b *Bank) kept(scope string) *index {
	s := b.cached(scope)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.index == nil {
		return &index{}
	}
	return s.index.apart()
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

// loadStates adds the states after an id. It adds the row number of each state by the
// state's id.
func (x *index) loadStates(ctx context.Context, tx *sql.Tx, scope string, after int64, rowOf map[int64]int) error {
	rows, err := tx.QueryContext(ctx,
		`SELECT id, text, vector, visits, checksum FROM memory_states WHERE scope = ? AND id > ? ORDER BY id`,
		scope, after)
	if err != nil {
		return err
	}
	defer rows.Close()
	m := &x.matrix
	for rows.Next() {
		var blob []byte
		var r row
		var text, sum string
		if err := rows.Scan(&r.id, &text, &blob, &r.visits, &sum); err != nil {
			return err
		}
		if sum != "" && sum != stateChecksum(scope, text, blob) {
			return fmt.Errorf("%w: state %d differs from its checksum", ErrDamaged, r.id)
		}
		if m.Rows > 0 && len(blob) != 4*m.Cols {
			return fmt.Errorf("the vector of state %d has %d bytes, others have %d", r.id, len(blob), 4*m.Cols)
		}
		m.Rows, m.Cols, m.Stride = m.Rows+1, len(blob)/4, len(blob)/4
		m.Data = appendVector(m.Data, blob)
		rowOf[r.id] = len(x.rows)
		x.rows = append(x.rows, r)
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
