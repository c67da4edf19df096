package embed_test

import (
	"slices"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/vault"
	"github.com/empo2/empo2/memory/embed"
)

// corridorStates solves a task and returns the visited states.
func corridorStates(t *testing.T, f *vault.Family, task envs.Task) (states []string) {
	t.Helper()
	e, err := f.Open(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	obs, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	actions, err := f.Solve(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range actions {
		states = append(states, obs.State)
		step, err := e.Step(t.Context(), action)
		if err != nil {
			t.Fatal(err)
		}
		obs = step.Observation
	}
	return states
}

func dot(a, b []float32) (sum float64) {
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

// vaultCosines returns the cosines between the doors of each variation.
func vaultCosines(t *testing.T, doors, levers int) (cosines []float64) {
	t.Helper()
	c := vault.Config{Doors: doors, Levers: levers, Score: vault.Sparse, TrainVariations: 2}
	for seed := range uint64(60) {
		c.Houses = append(c.Houses, seed)
	}
	family, err := vault.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := family.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		vectors, err := embed.NGram{}.Embed(t.Context(), corridorStates(t, family, task)...)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range vectors {
			if same := dot(v, v); same < 0.9999 || same > 1.0001 {
				t.Fatalf("a state has cosine %v to itself", same)
			}
			for _, other := range vectors[:i] {
				cosines = append(cosines, dot(v, other))
			}
		}
	}
	return cosines
}

// The threshold of 0.5 separates the doors: a tip is not recalled at another door.
// Two doors are similar only if they list almost the same levers in the same
// order, which is the case for about one pair in 50,000.
func TestNGramSeparatesTheDoorsOfAVault(t *testing.T) {
	for _, c := range []struct{ doors, levers int }{{2, 4}, {3, 4}, {4, 6}, {4, 8}, {5, 8}, {8, 8}, {8, 2}} {
		cosines := vaultCosines(t, c.doors, c.levers)
		if highest := slices.Max(cosines); highest >= 0.5 {
			t.Errorf("K=%d M=%d: cosines of different doors reach %.3f", c.doors, c.levers, highest)
		}
		t.Logf("K=%d M=%d: %d pairs of doors, cosine %.2f to %.2f",
			c.doors, c.levers, len(cosines), slices.Min(cosines), slices.Max(cosines))
	}
}
