package memory

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
)

// Stats is the size of a bank as of the last commit.
type Stats struct {
	Scopes  int // scopes with a tip or a visited state
	Tips    int // tips; equal texts of different episodes count separately
	Entries int // pairs of a state and a tip
	States  int // distinct states
	Visits  int // visits of the states, stored if novelty counts states
	Pending int // experiences learnt and not committed
}

// Stats returns the size of the bank.
func (b *Bank) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	err := b.db.QueryRowContext(ctx, `SELECT
		(SELECT count(DISTINCT scope) FROM memory_states),
		(SELECT count(*) FROM memory_tips),
		(SELECT count(*) FROM memory_entries),
		(SELECT count(*) FROM memory_states),
		(SELECT coalesce(sum(visits), 0) FROM memory_states)`,
	).Scan(&s.Scopes, &s.Tips, &s.Entries, &s.States, &s.Visits)
	if err != nil {
		return Stats{}, fmt.Errorf("count the memory: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Pending = len(b.buffer)
	return s, nil
}

// Tips lists the tips of a scope as of the last commit, best score first, then
// newest. An empty scope lists the tips of all scopes, scope by scope. Tips with
// the same text from different episodes are all listed.
func (b *Bank) Tips(ctx context.Context, scope string) ([]Tip, error) {
	return Stored(ctx, b.db, scope)
}

// Stored is [Bank.Tips] for a database, without an embedder. A database without the
// tables of a bank has no tips.
func Stored(ctx context.Context, db Database, scope string) ([]Tip, error) {
	var tables int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = 'memory_tips'`).Scan(&tables)
	if err != nil || tables == 0 {
		return nil, err
	}
	rows, err := db.QueryContext(ctx, `SELECT `+tipColumns+` FROM memory_tips t
		WHERE ?1 IN ('', t.scope) ORDER BY t.scope, t.score DESC, t.id DESC`, scope)
	if err != nil {
		return nil, fmt.Errorf("list tips: %w", err)
	}
	defer rows.Close()
	var tips []Tip
	for rows.Next() {
		var t Tip
		if err := rows.Scan(tipFields(&t)...); err != nil {
			return nil, fmt.Errorf("list tips: %w", err)
		}
		tips = append(tips, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tips: %w", err)
	}
	return tips, nil
}

// Similarity is the cosine of a vector and the most similar state that a tip is
// stored with. Tips of other strategies than [Bank] are their cases.
func Similarity(ctx context.Context, db Database, tip int64, vector []float32) (float64, error) {
	query := `SELECT s.vector FROM memory_entries e JOIN memory_states s ON s.id = e.state WHERE e.tip = ?`
	if name, err := StrategyName(ctx, db); err != nil || name != TipsStrategy {
		return caseSimilarity(ctx, db, tip, vector, err)
	}
	rows, err := db.QueryContext(ctx, query, tip)
	if err != nil {
		return 0, fmt.Errorf("read the states of tip %d: %w", tip, err)
	}
	defer rows.Close()
	best := -1.0
	for rows.Next() {
		var blob []byte
		if err := rows.Scan(&blob); err != nil {
			return 0, fmt.Errorf("read the states of tip %d: %w", tip, err)
		}
		if len(blob) != 4*len(vector) {
			return 0, fmt.Errorf("a state of tip %d has %d bytes, not %d", tip, len(blob), 4*len(vector))
		}
		cosine := 0.0
		for i, v := range vector {
			cosine += float64(v) * float64(math.Float32frombits(binary.LittleEndian.Uint32(blob[4*i:])))
		}
		best = max(best, cosine)
	}
	return best, rows.Err()
}
