package memory_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/memory"
	"github.com/empo2/empo2/memory/memorytest"
)

// A bank that stays open answers as one that reads everything anew, whichever states
// and tips were removed, and a preview of an earlier time answers as it did.
func TestAScopeInRAMFollowsTheDatabase(t *testing.T) {
	for _, removed := range []string{"none", "tip of first", "tip of middle", "tip of last"} {
		db := memorytest.DB(t)
		b := openBank(t, db, func(c *memory.Config) { c.Threshold = 0.1 })
		states := []string{"first hall of brass", "middle hall of iron", "last hall of jade"}
		for i, s := range states {
			learn(t, b, episode(100+i, "tip of "+strings.Fields(s)[0], float64(i), s))
		}
		commit(t, db, b)
		before := recall(t, b, "s", "jade")
		if !slices.Equal(texts(before), []string{"tip of last"}) {
			t.Fatalf("tips %q", texts(before))
		}
		kept, err := b.Preview(t.Context(), nil, []string{"s"})
		if err != nil {
			t.Fatal(err)
		}
		if removed != "none" {
			records, err := memory.Remove.Records("s", removed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Import(t.Context(), strings.NewReader(records), nil); err != nil {
				t.Fatal(err)
			}
		}
		recall(t, b, "s", "hall of jade")
		for i := range 3 {
			learn(t, b, episode(200+i, fmt.Sprint("new ", i), 9, fmt.Sprint("hall of onyx ", i)))
			commit(t, db, b)
			recall(t, b, "s", fmt.Sprint("hall ", i))
		}
		fresh := openBank(t, db, func(c *memory.Config) { c.Threshold = 0.1 })
		for _, query := range append(states, "hall of onyx", "hall of jade") {
			if diff := cmp.Diff(recall(t, fresh, "s", query), recall(t, b, "s", query)); diff != "" {
				t.Errorf("%s removed, %q (-read anew +kept):\n%s", removed, query, diff)
			}
		}
		after, err := kept(t.Context(), memory.State{Scope: "s", Text: "jade!"}) // not the text asked for before
		if diff := cmp.Diff(before, after); diff != "" || err != nil {
			t.Errorf("%s removed: the preview has changed (-before +after): %v\n%s", removed, err, diff)
		}
	}
}

// What a caller does to an answer does not change the next one.
func TestRecollectionsAreCopies(t *testing.T) {
	db := memorytest.DB(t)
	b := openBank(t, db)
	learn(t, b, episode(100, "go", 1, "a hall of brass"))
	commit(t, db, b)
	for range 3 {
		r := recall(t, b, "s", "a hall of brass")
		if !slices.Equal(texts(r), []string{"go"}) {
			t.Fatalf("tips %q", texts(r))
		}
		r.Tips[0].Text = "spoilt"
	}
}
