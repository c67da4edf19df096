package report

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// Pair is what two settings made of the same task with the same seed.
type Pair struct {
	Task int // pairs of one task have the same number
	A, B float64
}

// Difference is the mean of B − A over pairs.
type Difference struct {
	Mean float64 `json:"mean"`
	// Low and High are its 95 % interval; nil: there are too few pairs.
	Low    *float64 `json:"low"`
	High   *float64 `json:"high"`
	N      int      `json:"pairs"`
	Method string   `json:"method"`
}

// The methods of a [Difference].
const (
	methodNewcombe = "Newcombe's score interval for paired rates"
	methodWithin   = "Student's t, variance within tasks"
	methodAcross   = "Student's t over tasks"
	methodBetting  = "confidence sequence by betting"
)

// Paired95 returns the mean difference of a number of pairs that was fixed beforehand.
// Values of two levels, such as success, get Newcombe's interval ("Improved
// confidence intervals for the difference between binomial proportions based on
// paired data", 1998, method 10), others a t interval. If a task has several pairs, the
// interval is about these tasks; the variance is pooled within them.
func Paired95(pairs []Pair) Difference {
	out := Difference{N: len(pairs), Method: methodNewcombe}
	levels := map[float64]bool{}
	for _, p := range pairs {
		out.Mean += (p.B - p.A) / float64(len(pairs))
		if len(levels) <= 2 {
			levels[p.A], levels[p.B] = true, true
		}
	}
	if len(pairs) == 0 {
		return out
	}
	if len(levels) == 1 { // as if the other level were 1 away
		levels[pairs[0].A+1] = true
	}
	if len(levels) == 2 {
		below, above := newcombe(pairs, levels)
		out.set(out.Mean-below, out.Mean+above)
		return out
	}
	variance, freedom, method := varianceOf(pairs)
	out.Method = method
	if freedom >= 1 && variance > 0 {
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(freedom)}.Quantile(0.975)
		margin := t * math.Sqrt(variance/float64(len(pairs)))
		out.set(out.Mean-margin, out.Mean+margin)
	}
	return out
}

func (d *Difference) set(low, high float64) { d.Low, d.High = &low, &high }

// newcombe returns how far the interval reaches to both sides.
func newcombe(pairs []Pair, levels map[float64]bool) (below, above float64) {
	low, high := math.Inf(1), math.Inf(-1)
	for v := range levels {
		low, high = min(low, v), max(high, v)
	}
	var both, onlyA, onlyB, none int
	for _, p := range pairs {
		switch {
		case p.A == high && p.B == high:
			both++
		case p.A == high:
			onlyA++
		case p.B == high:
			onlyB++
		default:
			none++
		}
	}
	n := len(pairs)
	a, b := float64(both+onlyA)/float64(n), float64(both+onlyB)/float64(n)
	lowA, highA := Wilson95(both+onlyA, n)
	lowB, highB := Wilson95(both+onlyB, n)
	phi := correlation(float64(both), float64(onlyA), float64(onlyB), float64(none))
	reach := func(x, y float64) float64 { return math.Sqrt(max(0, x*x-2*phi*x*y+y*y)) }
	return (high - low) * reach(b-lowB, highA-a), (high - low) * reach(highB-b, a-lowA)
}

// correlation is φ of a table of pairs, with Newcombe's correction for continuity.
func correlation(both, onlyA, onlyB, none float64) float64 {
	spread := (both + onlyA) * (onlyB + none) * (both + onlyB) * (onlyA + none)
	if spread == 0 {
		return 0
	}
	excess := both*none - onlyA*onlyB
	if excess > 0 {
		excess = max(0, excess-(both+onlyA+onlyB+none)/2)
	}
	return excess / math.Sqrt(spread)
}

// varianceOf returns the variance of a difference: pooled within tasks if they have
// several pairs, else over tasks.
func varianceOf(pairs []Pair) (variance float64, freedom int, method string) {
	byTask := map[int][]float64{}
	for _, p := range pairs {
		byTask[p.Task] = append(byTask[p.Task], p.B-p.A)
	}
	if freedom = len(pairs) - len(byTask); freedom < 1 {
		all := make([]float64, len(pairs))
		for i, p := range pairs {
			all[i] = p.B - p.A
		}
		return squares(all) / float64(len(pairs)-1), len(pairs) - 1, methodAcross
	}
	for _, p := range pairs { // in the order of pairs, so that the sum is reproducible
		if values, ok := byTask[p.Task]; ok {
			variance += squares(values)
			delete(byTask, p.Task)
		}
	}
	return variance / float64(freedom), freedom, methodWithin
}

// squares is the sum of squared deviations from the mean.
func squares(values []float64) float64 {
	mean, sum := 0.0, 0.0
	for _, v := range values {
		mean += v / float64(len(values))
	}
	for _, v := range values {
		sum += (v - mean) * (v - mean)
	}
	return sum
}
