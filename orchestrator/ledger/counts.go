package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// countsKey is the entry of the table meta that holds the number of rows of each
// table, as JSON. Every transaction that adds or removes rows changes it, so that
// [Verify] finds rows that are missing.
const countsKey = "rows"

// countedID is the application id of a database that has the entry: "emp2". A run of
// an earlier version of empo2 has another id until [Open] counts its rows.
const countedID = 0x656d7032

// countedTables are the tables whose rows are counted. Facts and their names are not
// among them: those that are missing are computed again.
var countedTables = append(namesOf(tables), piecesTable)

func namesOf(all []table) []string {
	out := make([]string, len(all))
	for i, t := range all {
		out[i] = t.name
	}
	return out
}

type rowQueryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// transact makes the changes of f in one transaction.
func transact(ctx context.Context, db *sql.DB, f func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // no effect after Commit
	if err := f(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// add inserts a row and counts it. suffix is the end of the statement; if there is
// one, the row may exist.
func add(ctx context.Context, tx *sql.Tx, name, suffix string, values ...any) error {
	exists := 0
	if t := tableNamed(name); suffix != "" {
		query := "SELECT count(*) FROM " + name + " WHERE " + strings.Join(t.columns[:t.key], " = ? AND ") + " = ?"
		if err := tx.QueryRowContext(ctx, query, plainValues(values[:t.key])...).Scan(&exists); err != nil {
			return err
		}
	}
	if err := insert(ctx, tx, name, suffix, values...); err != nil || exists > 0 {
		return err
	}
	return count(ctx, tx, map[string]int64{name: 1})
}

// add is [add] in a transaction of its own.
func (l *Ledger) add(ctx context.Context, name, suffix string, values ...any) error {
	return transact(ctx, l.db, func(tx *sql.Tx) error { return add(ctx, tx, name, suffix, values...) })
}

// drop removes rows of a table and counts them. where is the condition.
func drop(ctx context.Context, tx *sql.Tx, name, where string, args ...any) error {
	done, err := tx.ExecContext(ctx, "DELETE FROM "+name+" WHERE "+where, args...)
	if err != nil {
		return err
	}
	n, err := done.RowsAffected()
	if err != nil || n == 0 {
		return err
	}
	return count(ctx, tx, map[string]int64{name: -n})
}

// count changes the recorded numbers of rows. It does nothing if they are missing,
// which [Verify] reports.
func count(ctx context.Context, tx *sql.Tx, by map[string]int64) error {
	counts, err := readCounts(ctx, tx)
	if err != nil || counts == nil {
		return err
	}
	for name, n := range by {
		counts[name] += n
	}
	return saveCounts(ctx, tx, counts)
}

// readCounts returns the recorded numbers of rows by table; nil if there are none.
func readCounts(ctx context.Context, from rowQueryer) (map[string]int64, error) {
	text, err := readMeta(ctx, from, countsKey)
	if err != nil || text == "" {
		return nil, err
	}
	var counts map[string]int64
	if err := json.Unmarshal([]byte(text), &counts); err != nil {
		return nil, fmt.Errorf("%w: entry %s in run.db: %w%s", ErrDamaged, countsKey, err, checkHint)
	}
	return counts, nil
}

func saveCounts(ctx context.Context, tx *sql.Tx, counts map[string]int64) error {
	text, err := json.Marshal(counts)
	if err != nil {
		return err
	}
	return insert(ctx, tx, "meta", tableNamed("meta").upsert(), countsKey, string(text))
}

// recount records the numbers of rows that the database has.
func recount(ctx context.Context, tx *sql.Tx) error {
	counts := map[string]int64{}
	if err := saveCounts(ctx, tx, counts); err != nil { // it is a row of meta
		return err
	}
	for _, name := range countedTables {
		n, err := rowsOf(ctx, tx, name)
		if err != nil {
			return err
		}
		counts[name] = n
	}
	if err := saveCounts(ctx, tx, counts); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", countedID))
	return err
}

func rowsOf(ctx context.Context, from rowQueryer, name string) (n int64, err error) {
	err = from.QueryRowContext(ctx, "SELECT count(*) FROM "+name).Scan(&n)
	return n, err
}

// countOnce counts the rows of a database that has no record of them.
func countOnce(ctx context.Context, db *sql.DB) error {
	if counted, err := isCounted(ctx, db); err != nil || counted {
		return err
	}
	return transact(ctx, db, func(tx *sql.Tx) error { return recount(ctx, tx) })
}

func isCounted(ctx context.Context, db *sql.DB) (bool, error) {
	var id int64
	err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id)
	return id == countedID, err
}

// counts compares the numbers of rows with those that were recorded.
func (v *verifier) counts() {
	for _, m := range missingRows(v.ctx, v.db) {
		v.report.add("table "+m.table, m.err, m.table == piecesTable)
	}
}

// missing says what is missing in a table.
type missing struct {
	table string
	err   error
}

// missingRows compares the numbers of rows with those that were recorded. It leaves
// out what cannot be read, which other checks report.
func missingRows(ctx context.Context, db *sql.DB) (found []missing) {
	counts, err := readCounts(ctx, db)
	if err != nil {
		return nil
	}
	if counted, err := isCounted(ctx, db); counts == nil && (counted || err != nil) {
		found = append(found, missing{"meta", errors.Join(err, errors.New("the numbers of rows are missing"))})
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if !slices.Contains(countedTables, name) {
			continue
		}
		n, err := rowsOf(ctx, db, name)
		if want := counts[name]; err == nil && n < want {
			found = append(found, missing{name, fmt.Errorf("%d of %d rows are missing", want-n, want)})
		}
	}
	return found
}
