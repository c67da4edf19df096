package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// ErrDamaged is wrapped by the error for a row that differs from its checksum,
// for a database that SQLite cannot read, and for damaged files.
var ErrDamaged = errors.New("the run is damaged")

// A table lists the columns that the checksum of a row covers, in its order. key
// is the number of columns that form the key.
type table struct {
	name    string
	columns []string
	key     int
}

var tables = []table{
	{"meta", []string{"key", "value"}, 1},
	{"plans", []string{"step", "plan"}, 1},
	{"episodes", []string{"step", "grp", "episode", "task", "mode", "version", "stop", "env_return", "score", "success",
		"at", "trajectory", "tokens", "logprobs"}, 3},
	{"untrained", []string{"kind", "step", "grp", "episode", "task", "mode", "version", "stop", "env_return", "score",
		"success", "at", "trajectory", "tokens", "logprobs"}, 4},
	{"estimates", []string{"step", "grp", "episode", "advantage", "bonus", "tokens", "logprobs"}, 3},
	{"steps", []string{"step", "version", "at", "metrics", "content"}, 1},
	{"versions", []string{"version", "step", "dir", "sha256", "canary", "files", "checkpoint"}, 1},
	{"evaluations", []string{"step", "kind", "version", "result"}, 2},
	{"events", []string{"step", "at", "kind", "detail"}, 0},
	{"imports", []string{"step", "records"}, 0},
	{"pins", []string{"name", "value", "step"}, 1},
}

// tableNamed returns the entry of [tables].
func tableNamed(name string) table {
	for _, t := range tables {
		if t.name == name {
			return t
		}
	}
	panic("no table " + name) // a mistake in this package
}

// list returns the columns and the checksum, for a statement.
func (t table) list() string { return strings.Join(t.columns, ", ") + ", checksum" }

type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// insert adds a row with its checksum. values are those of all columns; suffix is
// the end of the statement.
func insert(ctx context.Context, to execer, name, suffix string, values ...any) error {
	t := tableNamed(name)
	query := fmt.Sprintf("INSERT INTO %s(%s) VALUES(?%s) %s", t.name, t.list(),
		strings.Repeat(", ?", len(t.columns)), suffix)
	plain := make([]any, len(values))
	for i, v := range values {
		plain[i] = plainValue(v)
	}
	_, err := to.ExecContext(ctx, query, append(plain, checksum(values...))...)
	return err
}

// upsert is the suffix that replaces the row with the same key.
func (t table) upsert() string {
	var set []string
	for _, c := range append(t.columns[t.key:len(t.columns):len(t.columns)], "checksum") {
		set = append(set, c+" = excluded."+c)
	}
	return fmt.Sprintf("ON CONFLICT(%s) DO UPDATE SET %s", strings.Join(t.columns[:t.key], ", "), strings.Join(set, ", "))
}

// plainValue returns a value as SQLite stores it: an integer, a float, a text or a
// blob, which is a []byte.
func plainValue(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case json.RawMessage:
		return string(v)
	case []byte:
		if v == nil { // the driver would store NULL
			return []byte{}
		}
	case float64:
		return v + 0 // SQLite has no negative zero
	}
	return v
}

// checksum returns the SHA-256 of the values of a row in hexadecimal. A value is
// hashed with its type and its length.
func checksum(values ...any) string {
	sum := sha256.New()
	for _, v := range values {
		switch v := plainValue(v).(type) {
		case int64:
			fmt.Fprintf(sum, "i%d;", v)
		case float64:
			_ = binary.Write(sum, binary.BigEndian, math.Float64bits(v)) // a hash never fails
		case string:
			fmt.Fprintf(sum, "t%d:%s;", len(v), v)
		case []byte:
			fmt.Fprintf(sum, "b%d:%s;", len(v), v)
		default: // NULL, or a type that no column has
			fmt.Fprintf(sum, "?%T;", v)
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// verify compares a row that was read with its checksum. what names the row.
func verify(what, stored string, values ...any) error {
	if checksum(values...) != stored {
		return fmt.Errorf("%w: %s in run.db differs from its checksum%s", ErrDamaged, what, checkHint)
	}
	return nil
}

// contentOf returns the checksum of everything that a step was made of, so that a
// missing episode is found too.
func contentOf(ctx context.Context, from queryer, step int64) (string, error) {
	sums, err := selectAll(ctx, from, `SELECT checksum FROM plans WHERE step = ?1 UNION ALL
		SELECT * FROM (SELECT checksum FROM episodes WHERE step = ?1 ORDER BY grp, episode)`, 1, step)
	if err != nil {
		return "", explain(err)
	}
	all := make([]any, len(sums))
	for i, s := range sums {
		all[i] = s[0]
	}
	return checksum(all...), nil
}

// checkHint is the remedy for damage where the run's folder is not known.
const checkHint = "\n  hint: empo2 check shows what is damaged and how to go on"
