package orchestrator

import (
	"math"
	"strings"
)

// importance says how the ratios w = π_trainer/π_server of an episode's tokens, both in
// the context that was sampled, become the weights of its loss. A weight of 0 leaves the
// token in the averages.
type importance struct {
	// mode is loss.mismatch_mode, the level and what happens beyond the bounds. Levels:
	// token (each w), sequence (the product of all, for every token) and geometric (their
	// geometric mean). truncate takes at most high ("Your efficient RL framework secretly
	// brings you off-policy RL training", Yao et al. 2025); mask gives 0 below low and
	// above high (IcePop, Ling team 2025).
	mode      string
	low, high float64 // high = 0: no correction
}

// weights returns the weight of each token from its log w.
func (m importance) weights(logRatios []float64) []float32 {
	level, action, _ := strings.Cut(m.mode, "_")
	sum := 0.0
	for _, l := range logRatios {
		sum += l
	}
	out := make([]float32, len(logRatios))
	for i, l := range logRatios {
		switch level {
		case "sequence":
			l = sum
		case "geometric":
			l = sum / float64(len(logRatios))
		}
		out[i] = float32(m.bounded(math.Exp(min(l, maxLogRatio)), action == "mask"))
	}
	return out
}

func (m importance) bounded(w float64, mask bool) float64 {
	switch {
	case m.high == 0:
		return 1
	case mask && (w < m.low || w > m.high):
		return 0
	}
	return min(w, m.high)
}
