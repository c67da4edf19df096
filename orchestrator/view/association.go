package view

import (
	"maps"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/empo2/empo2/orchestrator/report"
)

// Association compares the returns of training episodes that saw a tip with those
// of the same tasks that did not, between the first and the last step that showed
// it in a task. It is an association and not an effect: the memory chooses which
// episodes see which tip, for example because of their state, and most episodes
// without a tip are sampled without any.
type Association struct {
	Seen   Sample `json:"seen"`
	Others Sample `json:"others"`
	// Difference is the mean over tasks of the differences of the two means, weighted
	// with the number of episodes that saw the tip.
	Difference float64 `json:"difference"`
	// Low and High are its 95 % interval; nil: there are too few episodes.
	Low  *float64 `json:"low"`
	High *float64 `json:"high"`
}

// Sample is a number of episodes and the mean of their returns. The means of the
// two samples of an association have equal weights of tasks, so that they differ by
// its difference.
type Sample struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
}

// stratum holds the returns of one task.
type stratum struct{ seen, others []float64 }

// associate sets the association of each tip that was shown.
func (g *gathering) associate() {
	strata := map[*Tip][]stratum{}
	levels := map[float64]bool{}
	for _, task := range slices.Sorted(maps.Keys(g.episodes)) { // so that sums are reproducible
		episodes := g.episodes[task]
		first, last := map[*Tip]int{}, map[*Tip]int{}
		for i, e := range episodes {
			if len(levels) <= 2 {
				levels[e.result] = true
			}
			for tip := range e.seen {
				if _, known := first[tip]; !known {
					first[tip] = i
				}
				last[tip] = i
			}
		}
		for tip := range first {
			s := compared(episodes, tip, episodes[first[tip]].step, episodes[last[tip]].step)
			if len(s.seen) > 0 && len(s.others) > 0 {
				strata[tip] = append(strata[tip], s)
			}
		}
	}
	for tip, s := range strata {
		a := associationOf(s, levels)
		tip.Association = &a
	}
}

// compared divides the episodes of a task, between two steps, into those that saw a
// tip and the others.
func compared(episodes []played, tip *Tip, from, to int64) (s stratum) {
	for _, e := range episodes {
		switch {
		case e.step < from || e.step > to:
		case e.seen[tip]:
			s.seen = append(s.seen, e.result)
		default:
			s.others = append(s.others, e.result)
		}
	}
	return s
}

// associationOf compares the two samples within each stratum. levels are the
// different returns of the run, as far as it has two at most.
func associationOf(strata []stratum, levels map[float64]bool) Association {
	var a Association
	for _, s := range strata {
		a.Seen.N += len(s.seen)
		a.Others.N += len(s.others)
	}
	for _, s := range strata {
		w := float64(len(s.seen)) / float64(a.Seen.N)
		a.Seen.Mean += w * mean(s.seen)
		a.Others.Mean += w * mean(s.others)
	}
	a.Difference = a.Seen.Mean - a.Others.Mean
	below, above := math.NaN(), math.NaN()
	switch len(levels) {
	case 1: // nothing is known about the spread
	case 2:
		below, above = rateMargins(strata, a.Seen.N, levels)
	default:
		below = meanMargin(strata, a.Seen.N)
		above = below
	}
	if !math.IsNaN(below) {
		low, high := a.Difference-below, a.Difference+above
		a.Low, a.High = &low, &high
	}
	return a
}

// rateMargins returns how far the 95 % interval of the difference reaches to both
// sides, for returns of two values: Newcombe's hybrid score interval ("Interval
// estimation for the difference between independent proportions", 1998, method
// 10), for a weighted sum of differences (Zou and Donner, "Construction of
// confidence limits about effect measures", 2008).
func rateMargins(strata []stratum, seen int, levels map[float64]bool) (below, above float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for v := range levels {
		low, high = min(low, v), max(high, v)
	}
	for _, s := range strata {
		w := float64(len(s.seen)) / float64(seen)
		p1, l1, u1 := rate(s.seen, high)
		p0, l0, u0 := rate(s.others, high)
		below += w * w * (square(p1-l1) + square(u0-p0))
		above += w * w * (square(u1-p1) + square(p0-l0))
	}
	return (high - low) * math.Sqrt(below), (high - low) * math.Sqrt(above)
}

// rate returns the share of values that are equal to hit, and its interval.
func rate(values []float64, hit float64) (p, low, high float64) {
	hits := 0
	for _, v := range values {
		if v == hit {
			hits++
		}
	}
	low, high = report.Wilson95(hits, len(values))
	return float64(hits) / float64(len(values)), low, high
}

// meanMargin returns half of the 95 % t interval of the difference. The variance of
// a sample is pooled over tasks. NaN: a sample has no task with two episodes.
func meanMargin(strata []stratum, seen int) float64 {
	var squares, freedom, inverse [2]float64 // of the samples: seen, others
	for _, s := range strata {
		w := float64(len(s.seen)) / float64(seen)
		for i, values := range [][]float64{s.seen, s.others} {
			m, n := mean(values), float64(len(values))
			for _, v := range values {
				squares[i] += square(v - m)
			}
			freedom[i] += n - 1
			inverse[i] += w * w / n
		}
	}
	if freedom[0] < 1 || freedom[1] < 1 {
		return math.NaN()
	}
	v0, v1 := squares[0]/freedom[0]*inverse[0], squares[1]/freedom[1]*inverse[1]
	if v0+v1 == 0 {
		return math.NaN() // equal values say nothing about the spread
	}
	nu := square(v0+v1) / (square(v0)/freedom[0] + square(v1)/freedom[1]) // Welch and Satterthwaite
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: nu}.Quantile(0.975) * math.Sqrt(v0+v1)
}

func square(x float64) float64 { return x * x }

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
