package scienceworld

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClosestActions(t *testing.T) {
	f := func(how Actions, text, wantFeedback string) {
		t.Helper()
		fam := fakeFamily(t, Config{Actions: how}, newFaults(nil))
		defer fam.Close()
		steps, err := play(t, fam, "boil/variation-0", text)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(wantFeedback, steps[0].Observation.Feedback); d != "" {
			t.Errorf("%s, %q: %s", how, text, d)
		}
	}
	f(ActRaw, "Open the door!", unknownInput)
	f(ActRaw, "open door", "done open door, 3")

	// The recipe always replaces the text and ignores the order of words. Of two
	// equal sets it uses the first in the unsorted list.
	f(ActClosestRecipe, "OPEN door", "done open door, 3")
	f(ActClosestRecipe, "move apple to jar", "done move jar to apple, 3")
	f(ActClosestRecipe, "", "done open door, 3")

	// ActClosest keeps a valid text, and tells what has replaced an invalid one.
	f(ActClosest, "move apple to jar", "done move apple to jar, 3")
	f(ActClosest, "  open\n door ", "done open door, 3")
	f(ActClosest, "Please move the apple to the jar", "(understood as: move apple to jar)\ndone move apple to jar, 4")
	f(ActClosest, "xyzzy", unknownInput)
}

func TestCommonWords(t *testing.T) {
	f := func(a, b []string, want int) {
		t.Helper()
		if got := commonWords(a, b); got != want {
			t.Errorf("%q, %q: %d, want %d", a, b, got, want)
		}
	}
	f(nil, nil, 0)
	f([]string{"a", "b", "c"}, []string{"a", "c"}, 2)
	f([]string{"a", "b"}, []string{"b", "a"}, 1)
	f([]string{"a", "a"}, []string{"a"}, 1)
}
