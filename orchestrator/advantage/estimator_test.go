package advantage

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// estimators have all of them, and GRPO both ways.
var estimators = map[string]Options{
	"grpo": {Estimator: GRPO, Baseline: Group, Normalize: true}, "dr_grpo": {Estimator: GRPO, Baseline: Group},
	"rloo": {Estimator: RLOO}, "opo": {Estimator: OPO}, "maxrl": {Estimator: MaxRL},
	"reinforce++": {Estimator: ReinforcePP}, "reinforce++ baseline": {Estimator: ReinforcePPBaseline},
}

// episodes have these returns, and as many trained tokens.
func episodes(returns []float64, tokens ...int) []Episode {
	out := make([]Episode, len(returns))
	for i, r := range returns {
		out[i] = Episode{Env: r, Tokens: tokens[i%len(tokens)]}
	}
	return out
}

func TestTied(t *testing.T) {
	f := func(want bool, returns ...float64) {
		t.Helper()
		if got := Tied(episodes(returns, 1)); got != want {
			t.Errorf("%v: %t", returns, got)
		}
	}
	f(true)
	f(true, 3)
	f(true, 0, 0, 0)
	f(true, 0.1+0.2, 0.3)
	f(false, 0, 0, 1e-6)
	f(false, -1, 1)
	if Tied([]Episode{{Env: 1}, {Env: 1, Bonus: 0.5}}) {
		t.Error("the bonus does not count")
	}
}

// The values were computed by hand from the formulas.
func TestEstimators(t *testing.T) {
	f := func(name string, groups [][]Episode, want ...[]float64) {
		t.Helper()
		for i, got := range Step(groups, estimators[name]) {
			if len(got.Advantages) != len(want[i]) {
				t.Fatalf("%s: group %d has %v", name, i, got)
			}
			for k, a := range got.Advantages {
				if math.Abs(a-want[i][k]) > 6e-5 {
					t.Errorf("%s: group %d: got %.4f, want %v", name, i, got.Advantages, want[i])
					break
				}
			}
			if got.Gradient != slices.ContainsFunc(want[i], nonzero) {
				t.Errorf("%s: group %d: gradient %v", name, i, got.Gradient)
			}
		}
	}
	one := episodes([]float64{1, 0, 0, 0.5}, 2, 4, 6, 8)
	f("grpo", [][]Episode{one}, []float64{1.3056, -0.7833, -0.7833, 0.2611})
	f("dr_grpo", [][]Episode{one}, []float64{0.625, -0.375, -0.375, 0.125})
	f("rloo", [][]Episode{one}, []float64{0.8333, -0.5, -0.5, 0.1667})
	f("opo", [][]Episode{one}, []float64{0.7, -0.3, -0.3, 0.2})
	f("maxrl", [][]Episode{one}, []float64{1.6667, -1, -1, 0.3333})
	whitened := []float64{2.0571, -0.8816, -0.8816, 0.5878}
	f("reinforce++", [][]Episode{one}, whitened)
	f("reinforce++ baseline", [][]Episode{one}, whitened)

	two := [][]Episode{one, episodes([]float64{1, 1, 1, 0}, 4)}
	f("reinforce++", two, []float64{1.118, -1.118, -1.118, 0}, []float64{1.118, 1.118, 1.118, -1.118})
	f("reinforce++ baseline", two,
		[]float64{1.7213, -0.8607, -0.8607, 0.4303}, []float64{0.7531, 0.7531, 0.7531, -1.8289})
	// A group of equal returns gets nothing from the whitening of the others.
	f("reinforce++ baseline", [][]Episode{one, episodes([]float64{1, 1, 1, 1}, 4)}, whitened, make([]float64, 4))
	// MaxRL is for returns that are not negative.
	f("maxrl", [][]Episode{episodes([]float64{-1, 0.5}, 1)}, []float64{0, 0})
	// One success among n has the largest advantage of GRPO, (n-1)/√n.
	f("grpo", [][]Episode{episodes([]float64{1, 0, 0, 0, 0, 0, 0, 0}, 3)},
		[]float64{2.4749, -0.3536, -0.3536, -0.3536, -0.3536, -0.3536, -0.3536, -0.3536})
	f("opo", [][]Episode{episodes([]float64{1, 0}, 0)}, []float64{0.5, -0.5}) // nothing is trained
}

func TestInvariantsOfEstimators(t *testing.T) {
	group := rapid.Custom(func(t *rapid.T) []Episode {
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Episode {
			return Episode{Env: float64(rapid.IntRange(0, 100).Draw(t, "return")) / 4,
				Tokens: rapid.IntRange(1, 50).Draw(t, "tokens")}
		}), 2, 8).Draw(t, "group")
	})
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(group, 1, 4).Draw(t, "groups")
		name := rapid.SampledFrom([]string{
			"grpo", "dr_grpo", "rloo", "opo", "maxrl", "reinforce++", "reinforce++ baseline"}).Draw(t, "estimator")
		o := estimators[name]
		got := Step(groups, o)

		perToken := o.Estimator == OPO || o.Estimator == ReinforcePP || o.Estimator == ReinforcePPBaseline
		sum, bound := 0.0, 1e-9
		for g, group := range groups {
			for i, a := range got[g].Advantages {
				weight := 1.0
				if perToken {
					weight = float64(group[i].Tokens)
				}
				sum, bound = sum+weight*a, bound+1e-9*weight*math.Abs(a)
			}
		}
		if math.Abs(sum) > bound {
			t.Fatalf("%s: the advantages sum to %g", name, sum)
		}
		if o.Estimator != MaxRL { // shifted returns have the same advantages
			for g, moved := range Step(shifted(groups, 32), o) {
				same(t, name+", shifted", got[g], moved)
			}
		}
		for g := range groups { // the order of a group's episodes does not matter
			slices.Reverse(groups[g])
			slices.Reverse(got[g].Advantages)
		}
		for g, reversed := range Step(groups, o) {
			same(t, name+", reversed", got[g], reversed)
		}
	})
}

func shifted(groups [][]Episode, by float64) [][]Episode {
	out := make([][]Episode, len(groups))
	for g, group := range groups {
		out[g] = slices.Clone(group)
		for i := range out[g] {
			out[g][i].Env += by
		}
	}
	return out
}

func same(t *rapid.T, what string, a, b Estimated) {
	for i := range a.Advantages {
		if math.Abs(a.Advantages[i]-b.Advantages[i]) > 1e-6*max(1, math.Abs(a.Advantages[i])) {
			t.Fatalf("%s: %v and %v", what, a, b)
		}
	}
}

func TestEqualReturnsOfAllEstimators(t *testing.T) {
	for name, o := range estimators {
		for _, r := range []float64{0, 1, 0.1 + 0.2, 100} {
			groups := [][]Episode{episodes([]float64{r, r, r}, 1, 7), episodes([]float64{r, r}, 3)}
			for _, got := range Step(groups, o) {
				if got.Gradient || slices.ContainsFunc(got.Advantages, nonzero) {
					t.Errorf("%s, return %g: got %v", name, r, got)
				}
			}
		}
		for _, groups := range [][][]Episode{{}, {nil}, {episodes([]float64{5}, 3)}} {
			for _, got := range Step(groups, o) {
				if got.Gradient {
					t.Errorf("%s, %s: got %v", name, fmt.Sprint(groups), got)
				}
			}
		}
	}
}
