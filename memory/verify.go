package memory

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
)

// ErrDamaged is wrapped by the error for a row that differs from its checksum.
var ErrDamaged = errors.New("the memory is damaged")

func stateChecksum(scope, text string, vector []byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%d:%s%d:%s", len(scope), scope, len(text), text)
	sum.Write(vector)
	return hex.EncodeToString(sum.Sum(nil))
}

// checksum covers all fields but the ID.
func (t Tip) checksum() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d:%s%d:%s%x %d %d %d %d", len(t.Scope), t.Scope, len(t.Text), t.Text,
		math.Float64bits(t.Score+0), t.Step, t.Group, t.Episode, t.Version))
	return hex.EncodeToString(sum[:])
}

// Verify compares every row with its checksum. A bank of an earlier version has
// none until [Migrate] has added them.
func Verify(ctx context.Context, db *sql.DB) error {
	columns, err := texts(ctx, db, "SELECT name FROM pragma_table_info('memory_tips') WHERE name = 'checksum'")
	if err != nil || len(columns) == 0 {
		return err
	}
	scopes, err := texts(ctx, db, `SELECT scope FROM memory_states UNION SELECT scope FROM memory_tips
		UNION SELECT scope FROM memory_entries`)
	if err != nil {
		return err
	}
	if err := verifyCases(ctx, db); err != nil {
		return err
	}
	for _, scope := range scopes {
		if _, err := (&index{}).refresh(ctx, db, scope); err != nil {
			return fmt.Errorf("scope %q: %w", scope, err)
		}
	}
	return nil
}

// verifyCases compares every case with its checksum.
func verifyCases(ctx context.Context, db *sql.DB) error {
	scopes, err := CaseScopes(ctx, db)
	if err != nil {
		return err
	}
	for _, scope := range scopes {
		if err := Cases(ctx, db, scope, func(Case) error { return nil }); err != nil {
			return fmt.Errorf("scope %q: %w", scope, err)
		}
	}
	return nil
}

// Exists reports whether a database has the tables of a bank.
func Exists(ctx context.Context, db *sql.DB) (bool, error) {
	return hasTable(ctx, db, "memory_tips")
}

func hasTable(ctx context.Context, db Database, name string) (bool, error) {
	var n int
	err := db.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE name = ?", name).Scan(&n)
	return n > 0, err
}

// A content is one line for each state, tip and entry, without ids and vectors.
var content = []string{
	`SELECT 'state ' || quote(scope) || ' ' || quote(text) || ' ' || visits || ' ' || visited
		FROM memory_states ORDER BY id`,
	`SELECT 'tip ' || quote(scope) || ' ' || quote(text) || ' ' || quote(score) || ' ' || step || ' ' || group_index
		|| ' ' || episode || ' ' || version FROM memory_tips ORDER BY id`,
	`SELECT 'entry ' || quote(e.scope) || ' ' || quote(s.text) || ' ' || quote(t.text) || ' ' || t.step || ' '
		|| t.group_index || ' ' || t.episode
		FROM memory_entries e JOIN memory_states s ON s.id = e.state JOIN memory_tips t ON t.id = e.tip ORDER BY e.id`,
	`SELECT 'case ' || quote(scope) || ' ' || quote(keys) || ' ' || quote(data) FROM memory_cases ORDER BY id`,
}

// Difference describes the first difference between the contents of two banks,
// vectors and ids apart. It is empty if they are equal.
func Difference(ctx context.Context, a, b *sql.DB) (string, error) {
	for _, query := range content {
		if ok, err := bothHaveCases(ctx, a, b); err != nil {
			return "", err
		} else if !ok && strings.Contains(query, "memory_cases") { // a bank of an earlier version
			continue
		}
		x, err := texts(ctx, a, query)
		if err != nil {
			return "", err
		}
		y, err := texts(ctx, b, query)
		if err != nil {
			return "", err
		}
		for i := range max(len(x), len(y)) {
			switch {
			case i >= len(x):
				return fmt.Sprintf("missing: %.200s", y[i]), nil
			case i >= len(y):
				return fmt.Sprintf("too much: %.200s", x[i]), nil
			case x[i] != y[i]:
				return fmt.Sprintf("%.200s, not %.200s", x[i], y[i]), nil
			}
		}
	}
	return "", nil
}

func bothHaveCases(ctx context.Context, databases ...*sql.DB) (bool, error) {
	for _, db := range databases {
		if ok, err := hasTable(ctx, db, "memory_cases"); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// EmbedderName returns the name of the embedder that wrote a bank, "" if the bank
// is empty.
func EmbedderName(ctx context.Context, db *sql.DB) (string, error) {
	names, err := texts(ctx, db, "SELECT value FROM memory_meta WHERE key = 'embedder'")
	if err != nil || len(names) == 0 {
		return "", err
	}
	return names[0], nil
}

// texts returns the rows of a query with one column.
func texts(ctx context.Context, db *sql.DB, query string) ([]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the memory: %w", err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, fmt.Errorf("read the memory: %w", err)
		}
		out = append(out, text)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the memory: %w", err)
	}
	return out, nil
}
