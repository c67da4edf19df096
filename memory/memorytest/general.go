package memorytest

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
)

// A Subject is a strategy for [RunGeneral].
type Subject struct {
	// Open opens the strategy in db with a capacity.
	Open func(t *testing.T, db *sql.DB, capacity int) memory.Strategy
	// Size counts what is stored in a scope and is bounded by the capacity.
	Size func(t *testing.T, db *sql.DB, scope string) int
}

// RunGeneral checks what every strategy must keep, whatever it stores: an empty memory
// recalls nothing; recall changes nothing and is deterministic for a seed; a commit is
// visible when it is committed, and a rollback leaves no trace; no scope sees another's;
// a preview answers as the commit will; the capacity holds after every commit; an episode
// counts once; the order of learning does not matter; a restart gives the same answers;
// a commit and a load do not wait for each other.
//
// A strategy must recall something (tips or Similar) in a state of a failed episode that
// has a tip and turns.
func RunGeneral(t *testing.T, s Subject) {
	for name, test := range map[string]func(g general){
		"an empty memory recalls nothing":   general.empty,
		"recall changes nothing":            general.recallChangesNothing,
		"a rollback leaves no trace":        general.rollback,
		"visible only after the commit":     general.visibility,
		"a preview answers as the commit":   general.preview,
		"scopes are separate":               general.scopes,
		"the capacity holds":                general.capacity,
		"an episode counts once":            general.once,
		"a restart gives the same answers":  general.restart,
		"the order of learning is free":     general.order,
		"concurrent use":                    general.concurrent,
		"a commit beside a load":            general.besideLoad,
		"an experience with a broken value": general.broken,
	} {
		t.Run(name, func(t *testing.T) {
			db := DB(t)
			test(general{fixture{s.Open(t, db, 50), t, db}, s})
		})
	}
}

type general struct {
	fixture
	subject Subject
}

var rooms = []string{"a hall with a red door", "some kitchen with seven knives", "one dark cellar below"}

// failed is a failed episode with a tip, in all rooms. Equal numbers are equal episodes.
func failed(scope string, n int) memory.Experience {
	e := memory.Experience{Scope: scope, States: rooms, Return: float64(n%3) / 4, Memory: true,
		Tip: memory.Tip{Text: fmt.Sprint("tip number ", n), Score: float64(n % 3), Step: int64(1 + n/10), Episode: n % 10}}
	for i := range rooms {
		e.Turns = append(e.Turns, memory.Turn{Action: fmt.Sprint("action ", (n+i)%4), Reward: float64((n+i)%3) / 8,
			Shown: []int64{int64(n), int64(n + 1)}})
	}
	return e
}

// answers are the recollections of all rooms with some seeds.
func (g general) answers(scope string) (out []memory.Recollection) {
	g.t.Helper()
	return g.answersOf(g.Recall, scope)
}

// answersOf are answers of a preview.
func (g general) answersOf(recall memory.RecallFunc, scope string) (out []memory.Recollection) {
	g.t.Helper()
	for _, room := range rooms {
		for seed := range uint64(4) {
			r, err := recall(g.t.Context(), memory.State{Scope: scope, Text: room, Seed: seed})
			if err != nil {
				g.t.Fatalf("recall: %v", err)
			}
			out = append(out, r)
		}
	}
	return out
}

func (g general) same(what string, want, got []memory.Recollection) {
	g.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func something(rs []memory.Recollection) bool {
	for _, r := range rs {
		if len(r.Tips) > 0 || r.Similar > 0 {
			return true
		}
	}
	return false
}

func (g general) empty() {
	if something(g.answers("s")) {
		g.t.Errorf("an empty memory recalls %+v", g.answers("s"))
	}
	g.commit(true)
	if something(g.answers("s")) {
		g.t.Error("an empty commit taught something")
	}
}

func (g general) recallChangesNothing() {
	g.learn(failed("s", 1), failed("s", 2), failed("s", 13))
	g.commit(true)
	want := g.answers("s")
	if !something(want) {
		g.t.Fatal("nothing was recalled")
	}
	for range 3 {
		g.same("recalled again", want, g.answers("s"))
	}
	g.commit(true)
	g.same("after an empty commit", want, g.answers("s"))
}

func (g general) rollback() {
	g.learn(failed("s", 1))
	g.commit(true)
	want := g.answers("s")
	g.learn(failed("s", 2), failed("s", 3))
	g.commit(false)
	g.same("rolled back", want, g.answers("s"))
	g.commit(true)
	g.same("after the next commit", want, g.answers("s"))
}

// A strategy that is a [memory.Previewer] answers as it will after the commit of some
// steps, whatever is committed then.
func (g general) preview() {
	s, ok := g.Strategy.(memory.Previewer)
	if !ok {
		g.t.Skip("it has no previews")
	}
	g.learn(failed("s", 1), failed("s", 2), failed("other", 3))
	g.commit(true)
	before := g.answers("s")
	var steps [][]memory.Experience
	for step := range 6 { // more than the capacity
		var one []memory.Experience
		for n := range 10 {
			one = append(one, failed("s", 10*(1+step)+n))
		}
		steps = append(steps, one)
	}
	recall := g.previewOf(s, steps)
	g.same("after a preview", before, g.answers("s"))
	want := g.answersOf(recall, "s")
	if cmp.Equal(before, want) {
		g.t.Error("60 episodes taught nothing")
	}
	g.learn(steps[0]...)
	g.commit(true)
	g.same("of steps of which one is committed", want, g.answersOf(g.previewOf(s, steps), "s"))
	for _, step := range steps[1:] {
		g.learn(step...)
		g.commit(true)
	}
	g.same("committed", want, g.answers("s"))
	g.learn(failed("s", 100))
	g.commit(true)
	g.same("after the next commit", want, g.answersOf(recall, "s"))
	if something(g.answersOf(recall, "empty")) {
		g.t.Error("an empty scope is not empty in the preview")
	}
	if _, err := recall(g.t.Context(), memory.State{Scope: "other", Text: rooms[0]}); err == nil {
		g.t.Error("a scope that the preview does not have has an answer")
	}
}

func (g general) previewOf(s memory.Previewer, steps [][]memory.Experience) memory.RecallFunc {
	g.t.Helper()
	recall, err := s.Preview(g.t.Context(), steps, []string{"s", "empty", "s"})
	if err != nil {
		g.t.Fatal(err)
	}
	return recall
}

func (g general) visibility() {
	g.learn(failed("s", 1))
	tx, err := g.db.BeginTx(g.t.Context(), nil)
	if err != nil {
		g.t.Fatal(err)
	}
	defer tx.Rollback() // no effect after the commit
	done, err := g.Commit(g.t.Context(), tx)
	if err != nil {
		g.t.Fatal(err)
	}
	if something(g.answers("s")) {
		g.t.Error("recalled before the commit")
	}
	g.learn(failed("s", 2)) // belongs to the next commit
	if err := tx.Commit(); err != nil {
		g.t.Fatal(err)
	}
	done(true)
	first := g.answers("s")
	if !something(first) {
		g.t.Error("nothing is recalled after the commit")
	}
	g.commit(true)
	if cmp.Equal(first, g.answers("s")) {
		g.t.Error("what was learnt during the commit is lost")
	}
}

func (g general) scopes() {
	g.learn(failed("s", 1))
	g.commit(true)
	if something(g.answers("other")) {
		g.t.Errorf("recalled in another scope: %+v", g.answers("other"))
	}
}

func (g general) capacity() {
	const capacity = 4
	s := g.subject.Open(g.t, g.db, capacity)
	for n := range 12 {
		e := failed("s", n)
		e.States = []string{fmt.Sprint("first room ", n), fmt.Sprint("second room ", n*n), fmt.Sprint("third ", 7*n)}
		if err := s.Learn(g.t.Context(), e); err != nil {
			g.t.Fatal(err)
		}
		if err := Commit(g.t.Context(), g.db, s, true); err != nil {
			g.t.Fatal(err)
		}
		if size := g.subject.Size(g.t, g.db, "s"); size > capacity {
			g.t.Fatalf("size %d after episode %d, capacity %d", size, n, capacity)
		}
	}
	if g.subject.Size(g.t, g.db, "s") == 0 {
		g.t.Error("nothing is stored")
	}
}

func (g general) once() {
	g.learn(failed("s", 1), failed("s", 2), failed("s", 1))
	g.commit(true)
	want := g.answers("s")
	g.learn(failed("s", 2))
	g.commit(true)
	g.same("learnt again", want, g.answers("s"))
	db := DB(g.t)
	other := general{fixture{g.subject.Open(g.t, db, 50), g.t, db}, g.subject}
	other.learn(failed("s", 1), failed("s", 2))
	other.commit(true)
	g.same("learnt twice in one commit", other.answers("s"), want)
}

func (g general) restart() {
	for n := range 9 {
		g.learn(failed("s", 3*n), failed("other", 3*n+1))
		g.commit(n != 4)
	}
	want := g.answers("s")
	again := general{fixture{g.subject.Open(g.t, g.db, 50), g.t, g.db}, g.subject}
	g.same("after a restart", want, again.answers("s"))
	again.learn(failed("fresh", 90))
	again.commit(true)
	if !something(again.answers("fresh")) {
		g.t.Error("nothing is learnt after a restart")
	}
}

func (g general) order() {
	var want []memory.Recollection
	for shift := range 5 {
		db := DB(g.t)
		f := general{fixture{g.subject.Open(g.t, db, 50), g.t, db}, g.subject}
		for i := range 5 {
			f.learn(failed("s", (i+shift)%5))
		}
		f.commit(true)
		if want == nil {
			want = f.answers("s")
		}
		g.same(fmt.Sprint("learnt from episode ", shift, " on"), want, f.answers("s"))
	}
}

// concurrent finds data races only with the race detector.
func (g general) concurrent() {
	for round := range 3 {
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				if err := g.Learn(context.Background(), failed("s", round*4+w)); err != nil {
					g.t.Errorf("learn: %v", err)
				}
				if _, err := g.Recall(context.Background(), memory.State{Scope: "s", Text: rooms[0]}); err != nil {
					g.t.Errorf("recall: %v", err)
				}
			})
		}
		wg.Go(func() {
			if err := Commit(context.Background(), g.db, g.Strategy, true); err != nil {
				g.t.Errorf("commit: %v", err)
			}
		})
		wg.Wait()
	}
	g.commit(true)
	if !something(g.answers("s")) {
		g.t.Error("nothing is recalled")
	}
}

// besideLoad commits while a recall waits for the database's only connection, which the
// commit has. The commit must not wait for the recall.
func (g general) besideLoad() {
	ctx := g.t.Context()
	g.learn(failed("s", 1))
	g.db.SetMaxOpenConns(1)
	tx, err := g.db.BeginTx(ctx, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	recalled := make(chan error, 1)
	go func() {
		_, err := g.Recall(ctx, memory.State{Scope: "s", Text: rooms[0]})
		recalled <- err
	}()
	for g.db.Stats().WaitCount == 0 && len(recalled) == 0 { // a strategy may need no connection
		time.Sleep(time.Millisecond)
	}
	committed := make(chan error, 1)
	go func() {
		done, err := g.Commit(ctx, tx)
		if err == nil {
			err = tx.Commit()
		}
		done(err == nil)
		committed <- err
	}()
	for _, c := range []chan error{committed, recalled} {
		select {
		case err := <-c:
			if err != nil {
				g.t.Error(err)
			}
		case <-time.After(time.Minute):
			g.t.Fatal("the commit and the recall wait for each other")
		}
	}
	if !something(g.answers("s")) {
		g.t.Error("nothing is recalled after the commit")
	}
}

func (g general) broken() {
	e := failed("", 1)
	if err := g.Learn(g.t.Context(), e); err == nil {
		g.t.Error("an empty scope was accepted")
	}
}
