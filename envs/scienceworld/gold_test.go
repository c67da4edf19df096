package scienceworld

import (
	"slices"
	"testing"

	"github.com/empo2/empo2/envs"
)

func TestSolve(t *testing.T) {
	f := fakeFamily(t, Config{Concurrency: 1}, &faults{})
	defer f.Close()
	actions, err := f.Solve(t.Context(), envs.Task{ID: "boil/variation-2"})
	if err != nil || !slices.Equal(actions, slices.Repeat([]string{"good"}, 10)) {
		t.Errorf("gold path %q, %v", actions, err)
	}
	if _, err := f.Solve(t.Context(), envs.Task{ID: "boil/variation-99"}); err == nil {
		t.Error("a variation that does not exist has a gold path")
	}
	steps, err := play(t, f, "boil/variation-2", actions...)
	if err != nil || len(steps) != 10 || !steps[9].Success {
		t.Errorf("the gold path ends with %+v, %v", steps, err)
	}
}

// The simulator's own gold paths solve their tasks.
func TestLiveGoldPaths(t *testing.T) {
	f := openLive(t, live(t))
	for _, id := range []string{"find-living-thing/variation-0", "measure-melting-point-known-substance/variation-3"} {
		actions, err := f.Solve(t.Context(), envs.Task{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		steps, err := play(t, f, id, actions...)
		if err != nil || len(steps) == 0 || !steps[len(steps)-1].Success {
			t.Errorf("%s: the gold path of %d actions ends after %d: %v", id, len(actions), len(steps), err)
		}
	}
}
