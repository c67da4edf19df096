package advantage

import (
	"math"
	"strings"
	"testing"
)

// Three episodes: A→B→C with reward 1 at the end, A→A→B and A→D without any. The values
// were computed by hand with γ = 0.9.
func TestGiGPO(t *testing.T) {
	turns := func(anchors string, last float64) []Turn {
		var out []Turn
		for _, a := range strings.Split(anchors, "") {
			out = append(out, Turn{Anchor: a})
		}
		out[len(out)-1].Reward = last
		return out
	}
	group := [][]Turn{turns("ABC", 1), turns("AAB", 0), turns("AD", 0)}
	f := func(normalize bool, weight float64, want ...[]float64) {
		t.Helper()
		episodes := Step([][]Episode{episodes([]float64{1, 0, 0}, 1)},
			Options{Estimator: GRPO, Baseline: Group, Normalize: normalize})[0].Advantages
		got := AddTurns(episodes, group, StepOptions{Discount: 0.9, Weight: weight, Normalize: normalize})
		for i := range want {
			for k := range want[i] {
				if math.Abs(got[i][k]-want[i][k]) > 1.1e-4 {
					t.Errorf("normalize %v, weight %g: episode %d has %.4f, want %v", normalize, weight, i, got[i], want[i])
					break
				}
			}
		}
	}
	f(false, 1, []float64{1.2742, 1.1167, 0.6667}, []float64{-0.5358, -0.5358, -0.7833}, []float64{-0.5358, -0.3333})
	f(true, 1, []float64{2.6547, 1.8618, 1.1547}, []float64{-1.0773, -1.0773, -1.2845}, []float64{-1.0773, -0.5773})
	f(false, 0, []float64{0.6667, 0.6667, 0.6667}, []float64{-0.3333, -0.3333, -0.3333}, []float64{-0.3333, -0.3333})

	group = [][]Turn{turns("AB", 1), turns("CD", 0), turns("EF", 0)} // no state twice
	f(false, 1, []float64{0.6667, 0.6667}, []float64{-0.3333, -0.3333}, []float64{-0.3333, -0.3333})

	// Equal episodes without a repeated state have no advantage; one that comes back to a
	// state is nearer to its reward at the second visit.
	o := StepOptions{Discount: 0.9, Weight: 1}
	for _, a := range AddTurns([]float64{0, 0}, [][]Turn{turns("AB", 1), turns("AB", 1)}, o)[0] {
		if a != 0 {
			t.Errorf("equal episodes have the advantage %g", a)
		}
	}
	again := AddTurns([]float64{0, 0}, [][]Turn{turns("AA", 1), turns("AA", 1)}, o)[0]
	if again[0] >= 0 || again[0]+again[1] > 1e-12 {
		t.Errorf("a state twice: %v", again)
	}
}
