package memory_test

import (
	"slices"
	"testing"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/memorytest"
)

// A snapshot answers as the bank did, whatever is committed later: new tips, better
// ones, and those that replace older ones.
func TestASnapshotKeepsTheMemoryOfItsTime(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db, func(c *memory.Config) { c.Capacity = 2 })
	near := "Levers: jade, amber, bone. Door 1 of 4 is oak."
	learn(t, b, episode(100, "first", 1, near))
	commit(t, db, b)
	kept, err := b.Snapshot(t.Context(), []string{"s", "empty", "s"}, 1, 2)
	if err != nil {
		t.Fatal(err)
	}
	f := func(recall memory.RecallFunc, scope string, similar int, want ...string) {
		t.Helper()
		r, err := recall(t.Context(), memory.State{Scope: scope, Text: near})
		if err != nil || r.Similar != similar || !slices.Equal(texts(r), want) {
			t.Errorf("%d similar, %q, %v; want %d, %q", r.Similar, texts(r), err, similar, want)
		}
	}
	f(kept, "s", 1, "first")
	learn(t, b, episode(200, "second", 9, near), episode(201, "first", 5, near), episode(202, "third", 0, near))
	commit(t, db, b)
	f(b.Recall, "s", 2, "first", "third")
	f(kept, "s", 1, "first")
	f(kept, "empty", 0)
	if _, err := kept(t.Context(), memory.State{Scope: "other", Text: near}); err == nil {
		t.Error("a scope that was not kept has an answer")
	}
}

// A run that continues a step hides what was committed since the step began.
func TestASnapshotHidesTheTipsOfLaterSteps(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	near := "Levers: jade, amber, bone. Door 1 of 4 is oak."
	learn(t, b, episode(100, "of step 1", 1, near), episode(200, "of step 2", 2, near), episode(300, "of step 3", 3, near),
		episode(4000, "imported from step 40", 0, near))
	commit(t, db, b)
	kept, err := b.Snapshot(t.Context(), []string{"s"}, 1, 3)
	if err != nil {
		t.Fatal(err)
	}
	r, err := kept(t.Context(), memory.State{Scope: "s", Text: near})
	want := []string{"of step 1", "imported from step 40"}
	if err != nil || r.Similar != 2 || !slices.Equal(texts(r), want) {
		t.Errorf("%d similar, %q, %v", r.Similar, texts(r), err)
	}
	if r := recall(t, b, "s", near); r.Similar != 4 {
		t.Errorf("the bank itself has %d similar entries", r.Similar)
	}
}
