package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
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
	_, err := to.ExecContext(ctx, tableNamed(name).insertion(suffix), append(plainValues(values), checksum(values...))...)
	return err
}

// insertion is the statement that adds a row. suffix is its end.
func (t table) insertion(suffix string) string {
	return fmt.Sprintf("INSERT INTO %s(%s) VALUES(?%s) %s", t.name, t.list(),
		strings.Repeat(", ?", len(t.columns)), suffix)
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

// checksum returns the first half of the SHA-256 of the values of a row, in Base64. A
// value is hashed with its type and its length.
func checksum(values ...any) string { return shortSum(sumOf(values)) }

// shortSum is a checksum as it is stored: half of a SHA-256 finds damage as well as all
// of it, and the rows of many episodes are small.
func shortSum(sum [sha256.Size]byte) string {
	return base64.RawStdEncoding.EncodeToString(sum[:sha256.Size/2])
}

// agrees reports whether the values of a row have a stored checksum. Formats 1 to 3
// stored all of the SHA-256 in hexadecimal.
func agrees(stored string, values ...any) bool {
	sum := sumOf(values)
	return stored == shortSum(sum) || stored == hex.EncodeToString(sum[:])
}

func sumOf(values []any) [sha256.Size]byte {
	size := 0
	for _, v := range values {
		size += 24
		switch v := v.(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		case json.RawMessage:
			size += len(v)
		}
	}
	row := make([]byte, 0, size)
	for _, v := range values {
		switch v := plainValue(v).(type) {
		case int64:
			row = append(strconv.AppendInt(append(row, 'i'), v, 10), ';')
		case float64:
			row = binary.BigEndian.AppendUint64(row, math.Float64bits(v))
		case string:
			row = append(strconv.AppendInt(append(row, 't'), int64(len(v)), 10), ':')
			row = append(append(row, v...), ';')
		case []byte:
			row = append(strconv.AppendInt(append(row, 'b'), int64(len(v)), 10), ':')
			row = append(append(row, v...), ';')
		default: // NULL, or a type that no column has
			row = fmt.Appendf(row, "?%T;", v)
		}
	}
	return sha256.Sum256(row)
}

// verify compares a row that was read with its checksum. what names the row.
func verify(what, stored string, values ...any) error {
	if !agrees(stored, values...) {
		return fmt.Errorf("%w: %s in run.db differs from its checksum%s", ErrDamaged, what, checkHint)
	}
	return nil
}

// contentOf returns the checksums of everything that a step was made of. Their checksum
// is stored, so that a missing episode is found too.
func contentOf(ctx context.Context, from queryer, step int64) ([]any, error) {
	sums, err := selectAll(ctx, from, `SELECT checksum FROM plans WHERE step = ?1 UNION ALL
		SELECT * FROM (SELECT checksum FROM episodes WHERE step = ?1 ORDER BY grp, episode)`, 1, step)
	if err != nil {
		return nil, explain(err)
	}
	all := make([]any, len(sums))
	for i, s := range sums {
		all[i] = s[0]
	}
	return all, nil
}

// checkHint is the remedy for damage where the run's folder is not known.
const checkHint = "\n  hint: empo2 check shows what is damaged and how to go on"
