package view

import (
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

// returns sums up the returns of some episodes of a task. squares is the sum of the
// squared deviations from their mean, and hits counts the highest return of the run.
type returns struct {
	n, hits       int
	mean, squares float64
}

// stratum holds the returns of one task.
type stratum struct{ seen, others returns }

// sums are what returns are computed from: n values, less an offset.
type sums struct {
	n, hits     int
	sum, square float64
}

func (s *sums) add(v float64, hit bool) {
	s.n++
	s.sum += v
	s.square += v * v
	if hit {
		s.hits++
	}
}

func (s sums) minus(t sums) sums {
	return sums{s.n - t.n, s.hits - t.hits, s.sum - t.sum, s.square - t.square}
}

func (s sums) returns(offset float64) returns {
	if s.n == 0 {
		return returns{}
	}
	m := s.sum / float64(s.n)
	return returns{s.n, s.hits, offset + m, max(0, s.square-m*s.sum)}
}

// taskReturns holds the training episodes of one task, in the order of steps.
type taskReturns struct {
	steps   []int64
	results []float64
	offset  float64 // the mean of results, so that sums of squares lose no digits
	until   []sums  // until[i]: of the episodes before i
}

// levelsOf returns the different returns of a run, as far as it has two at most.
func levelsOf(tasks []taskReturns) map[float64]bool {
	levels := map[float64]bool{}
	for _, t := range tasks {
		for _, v := range t.results {
			if levels[v] = true; len(levels) > 2 {
				return levels
			}
		}
	}
	return levels
}

// sum computes the sums of the task.
func (t *taskReturns) sum(high float64) {
	t.offset = mean(t.results)
	t.until = make([]sums, len(t.results)+1)
	for i, v := range t.results {
		next := t.until[i]
		next.add(v-t.offset, v == high)
		t.until[i+1] = next
	}
}

// compared divides the episodes of a task, between the first and the last step that
// showed a tip, into those that saw it and the others. seen are the indices of those
// that saw it, in order.
func (t *taskReturns) compared(seen []int32, high float64) stratum {
	var saw sums
	for _, i := range seen {
		saw.add(t.results[i]-t.offset, t.results[i] == high)
	}
	from, _ := slices.BinarySearch(t.steps, t.steps[seen[0]])
	to, _ := slices.BinarySearch(t.steps, t.steps[seen[len(seen)-1]]+1)
	all := t.until[to].minus(t.until[from])
	return stratum{saw.returns(t.offset), all.minus(saw).returns(t.offset)}
}

// highest returns the highest level.
func highest(levels map[float64]bool) float64 {
	high := math.Inf(-1)
	for v := range levels {
		high = max(high, v)
	}
	return high
}

// associationOf compares the two samples within each stratum. levels are the
// different returns of the run, as far as it has two at most.
func associationOf(strata []stratum, levels map[float64]bool) Association {
	var a Association
	for _, s := range strata {
		a.Seen.N += s.seen.n
		a.Others.N += s.others.n
	}
	for _, s := range strata {
		w := float64(s.seen.n) / float64(a.Seen.N)
		a.Seen.Mean += w * s.seen.mean
		a.Others.Mean += w * s.others.mean
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
	low, high := math.Inf(1), highest(levels)
	for v := range levels {
		low = min(low, v)
	}
	for _, s := range strata {
		w := float64(s.seen.n) / float64(seen)
		p1, l1, u1 := s.seen.rate()
		p0, l0, u0 := s.others.rate()
		below += w * w * (square(p1-l1) + square(u0-p0))
		above += w * w * (square(u1-p1) + square(p0-l0))
	}
	return (high - low) * math.Sqrt(below), (high - low) * math.Sqrt(above)
}

// rate returns the share of hits, and its interval.
func (r returns) rate() (p, low, high float64) {
	low, high = report.Wilson95(r.hits, r.n)
	return float64(r.hits) / float64(r.n), low, high
}

// meanMargin returns half of the 95 % t interval of the difference. The variance of
// a sample is pooled over tasks. NaN: a sample has no task with two episodes.
func meanMargin(strata []stratum, seen int) float64 {
	var squares, freedom, inverse [2]float64 // of the samples: seen, others
	for _, s := range strata {
		w := float64(s.seen.n) / float64(seen)
		for i, r := range []returns{s.seen, s.others} {
			squares[i] += r.squares
			freedom[i] += float64(r.n - 1)
			inverse[i] += w * w / float64(r.n)
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
