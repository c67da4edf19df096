package memorytest

import (
	"database/sql"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
)

// Run checks the contract of [memory.Strategy]. A state must be similar to itself.
// To simulate a restart, open is called twice with the same database.
func Run(t *testing.T, open func(t *testing.T, db *sql.DB) memory.Strategy) {
	for name, test := range map[string]func(fixture){
		"an empty memory recalls nothing":  testEmpty,
		"visible only after the commit":    testVisibility,
		"a rollback drops the experiences": testRollback,
		"every visited state is a key":     testKeys,
		"provenance is kept":               testProvenance,
		"scopes are separate":              testScopes,
		"an empty tip is not stored":       testEmptyTip,
		"an episode counts once":           testOnce,
		"learning during a commit":         testLearnDuringCommit,
		"an empty commit":                  func(f fixture) { f.commit(true); f.commit(false); f.commit(true) },
		"concurrent use":                   testConcurrent,
	} {
		t.Run(name, func(t *testing.T) {
			db := DB(t)
			test(fixture{open(t, db), t, db})
		})
	}
	t.Run("the order of learning does not matter", func(t *testing.T) { testOrder(t, open) })
	t.Run("a restart loses no committed tip", func(t *testing.T) { testReopen(t, open) })
}

func (f fixture) wantTexts(when, scope, state string, want ...string) {
	f.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), f.texts(scope, state)); diff != "" {
		f.t.Errorf("%s, at %q (-want +got):\n%s", when, state, diff)
	}
}

func testEmpty(f fixture) {
	if r := f.recall("s", "a hall"); len(r.Tips) != 0 || r.Similar != 0 {
		f.t.Errorf("recollection %+v, want none", r)
	}
}

func testVisibility(f fixture) {
	f.wantTexts("before", "s", "a hall")
	f.learn(experience("s", 0, "go north", 1, "a hall"))
	f.wantTexts("learnt", "s", "a hall")
	tx, err := f.db.BeginTx(f.t.Context(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer tx.Rollback() // no effect after the commit
	done, err := f.Commit(f.t.Context(), tx)
	if err != nil {
		f.t.Fatal(err)
	}
	f.wantTexts("written", "s", "a hall")
	if err := tx.Commit(); err != nil {
		f.t.Fatal(err)
	}
	done(true)
	f.wantTexts("committed", "s", "a hall", "go north")
	if n := f.recall("s", "a hall").Similar; n == 0 {
		f.t.Error("no state is similar to a stored state")
	}
}

func testRollback(f fixture) {
	f.learn(experience("s", 0, "stay", 1, "a hall"))
	f.commit(true)
	f.learn(experience("s", 1, "go north", 2, "a hall"))
	f.commit(false)
	f.wantTexts("rolled back", "s", "a hall", "stay")
	f.commit(true)
	f.wantTexts("after the next commit", "s", "a hall", "stay")
}

// testKeys: the reference implementation of the paper uses the last state only.
func testKeys(f fixture) {
	f.learn(experience("s", 0, "go north", 1, "a hall", "some kitchen", "dark cellar"))
	f.commit(true)
	for _, state := range []string{"a hall", "some kitchen", "dark cellar"} {
		f.wantTexts("committed", "s", state, "go north")
	}
}

func testProvenance(f fixture) {
	e := experience("s", 5, "go north", 7.5, "a hall")
	f.learn(e)
	f.commit(true)
	r := f.recall("s", "a hall")
	if len(r.Tips) != 1 {
		f.t.Fatalf("recollection %+v, want one tip", r)
	}
	want := e.Tip
	want.Scope, want.ID = "s", r.Tips[0].ID
	if diff := cmp.Diff(want, r.Tips[0]); diff != "" || want.ID == 0 {
		f.t.Errorf("tip of id %d (-want +got):\n%s", want.ID, diff)
	}
}

func testScopes(f fixture) {
	f.learn(experience("s", 0, "go north", 1, "a hall"))
	f.commit(true)
	f.wantTexts("committed elsewhere", "other", "a hall")
	if n := f.recall("other", "a hall").Similar; n != 0 {
		f.t.Errorf("similar = %d in a scope without tips", n)
	}
}

func testEmptyTip(f fixture) {
	f.learn(experience("s", 0, "", 1, "a hall"), experience("s", 1, " \n\t ", 1, "a hall"))
	f.commit(true)
	f.wantTexts("committed", "s", "a hall")
}

// testOnce: a step that is repeated after a crash teaches nothing twice.
func testOnce(f fixture) {
	e := experience("s", 0, "go north", 2, "a hall")
	f.learn(e, e)
	f.commit(true)
	want := f.recall("s", "a hall")
	f.learn(e)
	f.commit(true)
	if diff := cmp.Diff(want, f.recall("s", "a hall")); diff != "" || want.Similar != 1 {
		f.t.Errorf("similar = %d; learnt again (-want +got):\n%s", want.Similar, diff)
	}
}

func testLearnDuringCommit(f fixture) {
	f.learn(experience("s", 0, "go north", 2, "a hall"))
	tx, err := f.db.BeginTx(f.t.Context(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	defer tx.Rollback() // no effect after the commit
	done, err := f.Commit(f.t.Context(), tx)
	if err != nil {
		f.t.Fatal(err)
	}
	f.learn(experience("s", 1, "stay", 1, "a hall"))
	if err := tx.Commit(); err != nil {
		f.t.Fatal(err)
	}
	done(true)
	f.wantTexts("the first commit", "s", "a hall", "go north")
	f.commit(true)
	f.wantTexts("the second commit", "s", "a hall", "go north", "stay")
}

// testConcurrent finds data races only with the race detector.
func testConcurrent(f fixture) {
	const workers, rounds = 4, 5
	for round := range rounds {
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				e := experience("s", round*workers+w, fmt.Sprintf("tip %d of %d", w, round), 1, "a hall")
				if err := f.Learn(f.t.Context(), e); err != nil {
					f.t.Errorf("learn: %v", err)
				}
				if _, err := f.Recall(f.t.Context(), memory.State{Scope: "s", Text: "a hall"}); err != nil {
					f.t.Errorf("recall: %v", err)
				}
			})
		}
		wg.Go(func() {
			if err := Commit(f.t.Context(), f.db, f.Strategy, true); err != nil {
				f.t.Errorf("commit: %v", err)
			}
		})
		wg.Wait()
	}
	f.commit(true)
	if n := f.recall("s", "a hall").Similar; n != workers*rounds {
		f.t.Errorf("similar = %d after %d episodes", n, workers*rounds)
	}
}

func testOrder(t *testing.T, open func(t *testing.T, db *sql.DB) memory.Strategy) {
	experiences := []memory.Experience{
		experience("s", 0, "go north", 1, "a hall", "some kitchen"),
		experience("s", 1, "stay", 1, "a hall"),
		experience("s", 2, "go north", 0, "a hall"),
		experience("s", 3, "open it", 3, "some kitchen"),
	}
	var want []memory.Recollection
	for shift := range experiences {
		db := DB(t)
		f := fixture{open(t, db), t, db}
		f.learn(experiences[shift:]...)
		f.learn(experiences[:shift]...)
		f.commit(true)
		got := []memory.Recollection{f.recall("s", "a hall"), f.recall("s", "some kitchen")}
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("learnt from experience %d on (-want +got):\n%s", shift, diff)
		}
	}
}

func testReopen(t *testing.T, open func(t *testing.T, db *sql.DB) memory.Strategy) {
	db := DB(t)
	f := fixture{open(t, db), t, db}
	f.learn(experience("s", 0, "go north", 1, "a hall"), experience("s", 1, "stay", 2, "a hall"))
	f.commit(true)
	f.learn(experience("s", 2, "never committed", 3, "a hall"))
	want := f.recall("s", "a hall")
	again := fixture{open(t, db), t, db}
	if diff := cmp.Diff(want, again.recall("s", "a hall")); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}
