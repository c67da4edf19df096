package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"strings"
)

// Order is the order of the rows that a [Filter] selects.
type Order int

const (
	// NewestFirst begins with the newest step. Its groups and episodes ascend.
	NewestFirst Order = iota
	// OldestFirst is by step, group and episode.
	OldestFirst
	// BestFirst begins with the highest return, and WorstFirst with the lowest one. Of
	// equal returns, the newest is first.
	BestFirst
	WorstFirst
)

func (o Order) String() string {
	return [...]string{
		"f.step DESC, f.grp, f.episode",
		"f.step, f.grp, f.episode",
		"f.env_return DESC, f.step DESC, f.grp DESC, f.episode DESC",
		"f.env_return, f.step DESC, f.grp DESC, f.episode DESC",
	}[o]
}

// Filter selects episodes by their facts. [AllOf] selects all of a kind.
type Filter struct {
	Kind                 string // empty: training episodes
	Step                 int64  // -1: any, as Group, Episode and Version
	Group, Episode       int
	Version              int
	Task, Mode, Stop     string  // empty: any
	Success              *bool   // nil: any
	Cut, Empty, WithTips bool    // those with at least one
	Tip                  *TipKey // those that saw or wrote it; nil: any

	Order Order
	After *Episode // only those behind this place, with NewestFirst and OldestFirst
	Limit int      // 0: none
	// Details adds the score, the time and the estimate of each episode.
	Details bool
}

// AllOf selects all episodes of a kind. The kind of training episodes is empty.
func AllOf(kind string) Filter {
	return Filter{Kind: kind, Step: -1, Group: -1, Episode: -1, Version: -1}
}

// where returns the condition of the filter and its arguments.
func (f Filter) where() (string, []any) {
	conditions, args := []string{"f.kind = ?"}, []any{f.Kind}
	add := func(set bool, condition string, values ...any) {
		if set {
			conditions, args = append(conditions, condition), append(args, values...)
		}
	}
	const named = " = (SELECT id FROM names WHERE name = ?)"
	add(f.Step >= 0, "f.step = ?", f.Step)
	add(f.Group >= 0, "f.grp = ?", f.Group)
	add(f.Episode >= 0, "f.episode = ?", f.Episode)
	add(f.Version >= 0, "f.version = ?", f.Version)
	add(f.Task != "", "f.task"+named, f.Task)
	add(f.Mode != "", "f.mode"+named, f.Mode)
	add(f.Stop != "", "f.stop"+named, f.Stop)
	if f.Success != nil {
		add(true, "f.success = ?", plainValue(*f.Success))
	}
	add(f.Cut, "f.cut > 0")
	add(f.Empty, "f.empty > 0")
	add(f.WithTips, "f.tips_shown > 0")
	if f.Tip != nil {
		add(true, "instr(f.tips, ?) > 0", f.Tip[:])
	}
	if a := f.After; a != nil {
		beyond := "<"
		if f.Order == OldestFirst {
			beyond = ">"
		}
		add(true, "(f.step "+beyond+" ? OR f.step = ? AND (f.grp, f.episode) > (?, ?))", a.Step, a.Step, a.Group, a.Episode)
	}
	return strings.Join(conditions, " AND "), args
}

// Count returns the number of episodes that the filter selects, whatever its After
// and its Limit are. See [Ledger.FillFacts].
func (l *Ledger) Count(ctx context.Context, f Filter) (n int, err error) {
	f.After = nil
	where, args := f.where()
	if f.Kind == "" && len(args) == 1 && where == "f.kind = ?" { // all of them
		return l.CountBetween(ctx, math.MinInt64, math.MaxInt64)
	}
	err = l.db.QueryRowContext(ctx, "SELECT count(*) FROM facts f WHERE "+where, args...).Scan(&n)
	return n, explain(err)
}

// Row is an episode in a list.
type Row struct {
	Episode            // without its trajectory
	Estimate *Estimate // without its log-probs; nil: there is none
}

// details returns the columns of [Filter].Details and the tables that have them.
func (f Filter) details() (columns, tables string) {
	switch {
	case !f.Details:
		return "NULL, NULL, NULL, NULL, NULL", ""
	case f.Kind != "":
		return "e.score, e.at, NULL, NULL, NULL", " LEFT JOIN untrained e ON " +
			"(e.kind, e.step, e.grp, e.episode) = (f.kind, f.step, f.grp, f.episode)"
	}
	return "e.score, e.at, x.advantage, x.bonus, x.tokens", " LEFT JOIN episodes e ON " +
		"(e.step, e.grp, e.episode) = (f.step, f.grp, f.episode) LEFT JOIN estimates x ON " +
		"(x.step, x.grp, x.episode) = (f.step, f.grp, f.episode)"
}

// Rows calls yield with the episodes that the filter selects. yield must not use the
// ledger. The facts must be complete; see [Ledger.FillFacts]. The details are not
// compared with the checksums of their rows, which cover the large columns too.
func (l *Ledger) Rows(ctx context.Context, f Filter, yield func(Row) error) error {
	where, args := f.where()
	columns, tables := f.details()
	query := `SELECT f.step, f.grp, f.episode, t.name, m.name, f.version, s.name, f.env_return, f.success, f.turns, f.cut,
		f.empty, f.tips_shown, f.tips, f.checksum, ` + columns + ` FROM facts f` + tables + `
		JOIN names t ON t.id = f.task JOIN names m ON m.id = f.mode JOIN names s ON s.id = f.stop
		WHERE ` + where + " ORDER BY " + f.Order.String()
	if f.Limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	rows, err := l.db.QueryContext(ctx, query, args...)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRow(rows, f.Kind)
		if err != nil {
			return err
		}
		if err := yield(r); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

// scanRow reads the facts of one episode and verifies them.
func scanRow(rows *sql.Rows, kind string) (Row, error) {
	r := Row{Episode: Episode{Kind: kind, Facts: &Facts{}}}
	var sum int64
	var score, advantage, bonus sql.NullFloat64
	var at sql.NullString
	var tokens sql.NullInt64
	e, f := &r.Episode, r.Facts
	err := rows.Scan(&e.Step, &e.Group, &e.Episode, &e.Task, &e.Mode, &e.Version, &e.Stop, &e.EnvReturn, &e.Success,
		&f.Turns, &f.Cut, &f.Empty, &f.TipsShown, &f.Tips, &sum, &score, &at, &advantage, &bonus, &tokens)
	if err != nil {
		return r, unreadable("facts", err)
	}
	if sum != factsSum(*e) {
		return r, fmt.Errorf("%w: the facts of episode %d/%d/%d in run.db differ from their checksum%s", ErrDamaged,
			e.Step, e.Group, e.Episode, checkHint)
	}
	e.Score, e.At = score.Float64, at.String
	if tokens.Valid {
		r.Estimate = &Estimate{Group: e.Group, Episode: e.Episode, Advantage: advantage.Float64, Bonus: bonus.Float64,
			Tokens: int(tokens.Int64)}
	}
	return r, nil
}

// Names returns the tasks and the modes of a kind's episodes in order. limit is the
// largest number of tasks.
func (l *Ledger) Names(ctx context.Context, kind string, limit int) (tasks, modes []string, err error) {
	pairs, err := selectAll(ctx, l.db, "SELECT DISTINCT task, mode FROM facts WHERE kind = ?", 2, kind)
	if err != nil {
		return nil, nil, explain(err)
	}
	names, err := selectAll(ctx, l.db, "SELECT id, name FROM names ORDER BY name", 2)
	if err != nil {
		return nil, nil, explain(err)
	}
	isTask, isMode := map[any]bool{}, map[any]bool{}
	for _, p := range pairs {
		isTask[p[0]], isMode[p[1]] = true, true
	}
	tasks, modes = []string{}, []string{}
	for _, n := range names {
		if isTask[n[0]] && len(tasks) < limit {
			tasks = append(tasks, fmt.Sprint(n[1]))
		}
		if isMode[n[0]] {
			modes = append(modes, fmt.Sprint(n[1]))
		}
	}
	return tasks, modes, nil
}

// At returns the episode of a kind at a place; nil if there is none.
func (l *Ledger) At(ctx context.Context, kind string, step int64, group, episode int) (*Episode, error) {
	where, args := ofKind(kind)
	found, err := readEpisodes(ctx, l.db, tableOf(kind), "WHERE "+where+" AND step = ? AND grp = ? AND episode = ?",
		append(args, step, group, episode)...)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return &found[0], nil
}

// CountBetween returns the number of training episodes of the steps after one and
// until another.
func (l *Ledger) CountBetween(ctx context.Context, after, until int64) (n int, err error) {
	err = l.db.QueryRowContext(ctx, "SELECT count(*) FROM episodes WHERE step > ? AND step <= ?", after, until).Scan(&n)
	return n, explain(err)
}
