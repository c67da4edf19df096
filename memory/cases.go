package memory

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// A Case is a row of a strategy that is not a [Bank]: what is stored, and the
// states that it is stored under.
type Case struct {
	ID      int64 // increases and is never reused; 0: a new case
	Scope   string
	Keys    json.RawMessage // a list of states
	Vectors [][]float32     // of the states; nil: the strategy needs none
	Data    json.RawMessage // in the format of the strategy
}

// blob returns the vectors one after the other.
func (c Case) blob() []byte {
	blob := []byte{}
	for _, v := range c.Vectors {
		blob = append(blob, vectorBlob(v)...)
	}
	return blob
}

// checksum covers all fields but the ID.
func (c Case) checksum() string {
	sum := sha256.New()
	for _, part := range [][]byte{[]byte(c.Scope), c.Keys, c.Data, c.blob()} {
		fmt.Fprintf(sum, "%d:", len(part))
		sum.Write(part)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// WriteCase adds a case, or replaces the one with its ID.
func WriteCase(ctx context.Context, tx Database, c Case) error {
	var id any // NULL: the next one
	if c.ID != 0 {
		id = c.ID
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO memory_cases (id, scope, keys, vectors, n, data, checksum)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET keys = excluded.keys, vectors = excluded.vectors,
		n = excluded.n, data = excluded.data, checksum = excluded.checksum`,
		id, c.Scope, string(c.Keys), c.blob(), len(c.Vectors), string(c.Data), c.checksum())
	if err != nil {
		return fmt.Errorf("write a case: %w", err)
	}
	return nil
}

// RemoveCase removes a case.
func RemoveCase(ctx context.Context, tx Database, id int64) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM memory_cases WHERE id = ?`, id); err != nil {
		return fmt.Errorf("remove a case: %w", err)
	}
	return nil
}

// CaseScopes returns the scopes that have cases. A database without the table has none.
func CaseScopes(ctx context.Context, db *sql.DB) ([]string, error) {
	if ok, err := hasTable(ctx, db, "memory_cases"); err != nil || !ok {
		return nil, err
	}
	return texts(ctx, db, "SELECT DISTINCT scope FROM memory_cases ORDER BY scope")
}

// StrategyName returns the name of the strategy that wrote a memory: "" if the memory is
// empty, [TipsStrategy] if it is a [Bank].
func StrategyName(ctx context.Context, db Database) (string, error) {
	var name string
	err := db.QueryRowContext(ctx, `SELECT coalesce(max(iif(key = 'strategy', value, NULL)), iif(count(*) > 0, ?, ''))
		FROM memory_meta WHERE key IN ('strategy', 'embedder')`, TipsStrategy).Scan(&name)
	if err != nil {
		return "", fmt.Errorf("read the strategy of the memory: %w\n  hint: the tables of the memory must exist", err)
	}
	return name, nil
}

// TipsStrategy is the name of the strategy that a [Bank] is.
const TipsStrategy = "tips"

// Cases calls yield with each case of a scope, the oldest first.
func Cases(ctx context.Context, db Database, scope string, yield func(Case) error) error {
	rows, err := db.QueryContext(ctx,
		`SELECT id, keys, vectors, n, data, checksum FROM memory_cases WHERE scope = ? ORDER BY id`, scope)
	if err != nil {
		return fmt.Errorf("read the memory: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		c := Case{Scope: scope}
		var keys, data, sum string
		var blob []byte
		var n int
		if err := rows.Scan(&c.ID, &keys, &blob, &n, &data, &sum); err != nil {
			return fmt.Errorf("read the memory: %w", err)
		}
		c.Keys, c.Data = json.RawMessage(keys), json.RawMessage(data)
		if n < 0 || n > 0 && (len(blob) == 0 || len(blob)%(4*n) != 0) {
			return fmt.Errorf("%w: case %d has %d bytes for %d vectors", ErrDamaged, c.ID, len(blob), n)
		}
		for i := range n {
			size := len(blob) / n
			c.Vectors = append(c.Vectors, appendVector(nil, blob[i*size:(i+1)*size]))
		}
		if sum != c.checksum() {
			return fmt.Errorf("%w: case %d differs from its checksum", ErrDamaged, c.ID)
		}
		if err := yield(c); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return rows.Err()
}

// caseSimilarity is [Similarity] for a case.
func caseSimilarity(ctx context.Context, db Database, id int64, vector []float32, err error) (float64, error) {
	if err != nil {
		return 0, err
	}
	var blob []byte
	err = db.QueryRowContext(ctx, `SELECT vectors FROM memory_cases WHERE id = ?`, id).Scan(&blob)
	if err != nil {
		return 0, fmt.Errorf("read case %d: %w", id, err)
	}
	best := -1.0
	for size := 4 * len(vector); size > 0 && len(blob) >= size; blob = blob[size:] {
		best = max(best, dot(vector, appendVector(nil, blob[:size])))
	}
	return best, nil
}
