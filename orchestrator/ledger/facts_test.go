package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// known are the facts of an episode: its number decides them.
func known(e Episode) (*Facts, error) {
	return &Facts{Turns: e.Episode + 1, Cut: e.Episode % 2, Tips: AppendTip(nil, KeyOfTip("s", "left"), e.Episode)}, nil
}

// list returns the places and turns of the rows that a filter selects.
func list(t *testing.T, l *Ledger, f Filter) string {
	t.Helper()
	if err := l.FillFacts(t.Context(), known); err != nil {
		t.Fatal(err)
	}
	var out []string
	err := l.Rows(t.Context(), f, func(r Row) error {
		text := fmt.Sprintf("%d/%d/%d:%d", r.Step, r.Group, r.Episode.Episode, r.Facts.Turns)
		if r.Estimate != nil {
			text += fmt.Sprintf("%+g", r.Estimate.Advantage)
		}
		out = append(out, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// twoSteps writes a run: with facts, or as an earlier version did.
func twoSteps(t *testing.T, dir string, facts bool) *Ledger {
	t.Helper()
	l := open(t, dir)
	add := func(e Episode) {
		t.Helper()
		e.Trajectory, e.Mode, e.Stop = json.RawMessage(`{}`), "on", "done"
		if facts {
			e.Facts, _ = known(e)
		}
		if err := l.AddEpisode(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		add(Episode{Step: 1, Episode: i, Task: "a", EnvReturn: float64(i), Success: i > 0})
	}
	add(Episode{Step: 2, Task: "b", EnvReturn: -1})
	add(Episode{Step: 2, Task: "b", Kind: "eval"})
	err := errors.Join(l.SavePlan(t.Context(), 1, json.RawMessage(`{}`)), l.Commit(t.Context(), Step{Step: 1,
		Metrics: json.RawMessage(`{}`), Estimates: []Estimate{{Episode: 1, Advantage: 0.5}}}, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRowsAreSelectedAndOrdered(t *testing.T) {
	l := twoSteps(t, t.TempDir(), true)
	f := func(want string, count int, change func(*Filter)) {
		t.Helper()
		q := AllOf("")
		change(&q)
		if got := list(t, l, q); got != want {
			t.Errorf("%+v: %s, want %s", q, got, want)
		}
		if n, err := l.Count(t.Context(), q); n != count || err != nil {
			t.Errorf("%+v: %d, %v, want %d", q, n, err, count)
		}
	}
	yes := true
	left := KeyOfTip("s", "left")
	f("2/0/0:1 1/0/0:1 1/0/1:2 1/0/2:3", 4, func(*Filter) {})
	f("1/0/0:1 1/0/1:2+0.5 1/0/2:3 2/0/0:1", 4, func(q *Filter) { q.Order, q.Details = OldestFirst, true })
	f("1/0/2:3 1/0/1:2", 4, func(q *Filter) { q.Order, q.Limit = BestFirst, 2 })
	f("2/0/0:1", 4, func(q *Filter) { q.Order, q.Limit = WorstFirst, 1 })
	f("1/0/1:2", 1, func(q *Filter) { q.Cut = true })
	f("1/0/1:2 1/0/2:3", 2, func(q *Filter) { q.Success = &yes })
	f("2/0/0:1", 1, func(q *Filter) { q.Task = "b" })
	f("", 0, func(q *Filter) { q.Task = "unknown" })
	f("1/0/2:3", 4, func(q *Filter) { q.After = &Episode{Step: 1, Episode: 1} })
	f("2/0/0:1", 4, func(q *Filter) { q.Order, q.After = OldestFirst, &Episode{Step: 1, Episode: 2} })
	f("2/0/0:1 1/0/0:1 1/0/1:2 1/0/2:3", 4, func(q *Filter) { q.Tip = &left })
	f("2/0/0:1", 1, func(q *Filter) { q.Kind = "eval" })
	if tasks, modes, err := l.Names(t.Context(), "", 1); fmt.Sprint(tasks, modes) != "[a] [on]" || err != nil {
		t.Errorf("%v, %v, %v", tasks, modes, err)
	}
	if err := l.DropUntrained(t.Context(), "eval", 2); err != nil {
		t.Error(err)
	}
	f("", 0, func(q *Filter) { q.Kind = "eval" })
}

// The facts of a run of an earlier version are computed: in memory while it is read,
// and for good when it is opened.
func TestFactsOfAnEarlierVersionAreComputed(t *testing.T) {
	for _, statement := range []string{"DROP TABLE facts; DROP TABLE names", "DELETE FROM facts",
		"DELETE FROM facts WHERE step = 2"} {
		dir := t.TempDir()
		l := twoSteps(t, dir, !strings.HasPrefix(statement, "DROP"))
		if _, err := l.DB().Exec(statement); err != nil {
			t.Fatal(err)
		}
		reader, err := OpenReader(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		const want = "2/0/0:1 1/0/0:1 1/0/1:2 1/0/2:3"
		if got := list(t, reader, AllOf("")); got != want {
			t.Errorf("%s: a reader finds %s", statement, got)
		}
		l.Close()
		if l, err = Open(context.Background(), dir); err != nil {
			t.Fatal(err)
		}
		if got := list(t, l, AllOf("")); got != want {
			t.Errorf("%s: %s", statement, got)
		}
		if got := list(t, reader, AllOf("eval")); got != "2/0/0:1" { // now from the run
			t.Errorf("%s: a reader finds %s", statement, got)
		}
		reader.Close()
		l.Close()
		if r, err := Verify(t.Context(), dir); err != nil || len(r.Problems) > 0 {
			t.Errorf("%s: %+v, %v", statement, r, err)
		}
	}
}

// Damaged facts are found, harm nothing, and are computed again.
func TestDamagedFactsAreComputedAgain(t *testing.T) {
	for _, statement := range []string{"UPDATE facts SET turns = 9 WHERE episode = 2",
		"UPDATE names SET name = 'x' WHERE id = 1",
		"DELETE FROM names WHERE id = 2"} {
		dir := t.TempDir()
		l := twoSteps(t, dir, true)
		if _, err := l.DB().Exec(statement); err != nil {
			t.Fatal(err)
		}
		l.Close()
		r, err := Verify(t.Context(), dir)
		if err != nil || r.Damaged() || len(r.Problems) != 1 || r.Problems[0].Place != "facts" {
			t.Errorf("%s: %+v, %v", statement, r, err)
		}
		l = open(t, dir)
		if got := list(t, l, AllOf("")); got != "2/0/0:1 1/0/0:1 1/0/1:2 1/0/2:3" {
			t.Errorf("%s: %s", statement, got)
		}
		l.Close()
	}
}

// --from-step keeps the facts of the steps that stay.
func TestFactsReturnWithTheirSteps(t *testing.T) {
	dir := t.TempDir()
	l := twoSteps(t, dir, true)
	l.Close()
	if _, err := Return(t.Context(), dir, 0, nil); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir)
	if got := list(t, l, AllOf("")); got != "" {
		t.Errorf("after step 0: %s", got)
	}
}

func TestTipsOfAnEpisode(t *testing.T) {
	a, b := KeyOfTip("s", "a"), KeyOfTip("s", "b")
	f := Facts{Tips: AppendTip(AppendTip(nil, a, 300), b, 0)}
	var got []string
	complete := f.EachTip(func(k TipKey, shown int) { got = append(got, fmt.Sprint(k == a, k == b, shown)) })
	if !complete || strings.Join(got, ", ") != "true false 300, false true 0" {
		t.Errorf("%v, %t", got, complete)
	}
	for n := 1; n < len(f.Tips); n++ {
		if n == 7 {
			continue // the end of the first tip
		}
		if (Facts{Tips: f.Tips[:n]}).EachTip(func(TipKey, int) {}) {
			t.Errorf("%d of %d bytes are complete", n, len(f.Tips))
		}
	}
	if KeyOfTip("s", "a") == KeyOfTip("sa", "") {
		t.Error("scope and text are not told apart")
	}
}
