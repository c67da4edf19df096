package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"
)

// Interval is a mean with its 95 % interval, in the unit of the values. If nothing is
// known about the spread, Low and High are NaN.
type Interval struct {
	Mean, Low, High float64
	N               int // runs
	Method          Method
}

// Method says how an interval was computed.
type Method string

const (
	// Bootstrap: percentiles of the means of resampled runs. Such an interval never leaves the range of the values.
	Bootstrap Method = "bootstrap over seeds"
	// Wilson: the score interval of a rate within one run. It never leaves 0 to 100 %.
	Wilson Method = "Wilson, episodes of one run"
	// Pooled: Wilson's interval over the episodes of all runs, if the runs have equal results. They say nothing about
	// how seeds differ, and a bootstrap would have no width.
	Pooled Method = "Wilson, episodes of all runs"
	// Newcombe: the score interval of the difference of two rates, each within one run.
	Newcombe Method = "Newcombe, episodes of one run"
	// PooledNewcombe is Newcombe's interval over the episodes of all runs, if all differences are equal.
	PooledNewcombe Method = "Newcombe, episodes of all runs"
)

// Known reports whether the interval has bounds.
func (i Interval) Known() bool { return !math.IsNaN(i.Low) && !math.IsNaN(i.High) }

// String returns the bounds as text, or "–".
func (i Interval) String() string {
	if !i.Known() {
		return "–"
	}
	return fmt.Sprintf("[%.1f, %.1f]", i.Low, i.High)
}

const (
	// exactResamples is the largest number of values for which all n^n
	// resamples are computed.
	exactResamples = 6
	// drawnResamples is how many resamples are drawn for more values.
	drawnResamples = 20_000
)

// Interval95 computes the bootstrap interval of the mean of values (Efron and
// Tibshirani, "An Introduction to the Bootstrap", section 13.3). Equal values in
// equal order give equal intervals. A single value has no bounds.
func Interval95(values []float64) Interval {
	out := Interval{N: len(values), Mean: math.NaN(), Low: math.NaN(), High: math.NaN(), Method: Bootstrap}
	if len(values) == 0 {
		return out
	}
	out.Mean = stat.Mean(values, nil)
	if len(values) == 1 {
		return out
	}
	means := resampledMeans(values)
	slices.Sort(means)
	out.Low = stat.Quantile(0.025, stat.Empirical, means, nil)
	out.High = stat.Quantile(0.975, stat.Empirical, means, nil)
	low, high := slices.Min(values), slices.Max(values) // a mean may be rounded out of their range
	out.Mean, out.Low, out.High = clamp(out.Mean, low, high), clamp(out.Low, low, high), clamp(out.High, low, high)
	return out
}

func clamp(v, low, high float64) float64 { return math.Min(math.Max(v, low), high) }

// resampledMeans returns the means of resamples of values with replacement:
// of all of them if there are few values, else of random ones.
func resampledMeans(values []float64) []float64 {
	n := len(values)
	if n > exactResamples {
		rng := rand.New(rand.NewPCG(uint64(n), 0))
		means := make([]float64, drawnResamples)
		for i := range means {
			for range n {
				means[i] += values[rng.IntN(n)] / float64(n)
			}
		}
		return means
	}
	means := []float64{0}
	for range n {
		next := make([]float64, 0, len(means)*n)
		for _, mean := range means {
			for _, v := range values {
				next = append(next, mean+v/float64(n))
			}
		}
		means = next
	}
	return means
}

// z95 is the 97.5 % quantile of the normal distribution.
const z95 = 1.959963984540054

// Wilson95 returns the 95 % interval of a rate of hits out of n (Wilson, "Probable
// inference", 1927). It never leaves 0 to 1. Without observations it is all of it.
func Wilson95(hits, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	count, p := float64(n), float64(hits)/float64(n)
	centre := p + z95*z95/(2*count)
	margin := z95 * math.Sqrt(p*(1-p)/count+z95*z95/(4*count*count))
	scale := 1 + z95*z95/count
	return max(0, (centre-margin)/scale), min(1, (centre+margin)/scale)
}

// interval returns the interval of one evaluation.
func (p Point) interval() Interval {
	out := Interval{N: 1, Mean: p.Success, Low: math.NaN(), High: math.NaN(), Method: Wilson}
	if p.Evaluated > 0 {
		low, high := Wilson95(p.hits(), p.Evaluated)
		out.Low, out.High = 100*low, 100*high
	}
	return out
}

// successes are the success of each point.
func successes(points []Point) []float64 {
	values := make([]float64, len(points))
	for i, p := range points {
		values[i] = p.Success
	}
	return values
}

// overRuns returns the interval of the mean success of several runs.
func overRuns(points []Point) Interval {
	out := Interval95(successes(points))
	if all := pooled(points); len(points) > 1 && out.Low == out.High && all.Evaluated > 0 {
		out = all.interval()
		out.N, out.Method = len(points), Pooled
	}
	return out
}

// differences returns the interval of the mean of p − q over several runs.
func differences(p, q []Point) Interval {
	values := make([]float64, len(p))
	for i := range p {
		values[i] = p[i].Success - q[i].Success
	}
	out := Interval95(values)
	if a, b := pooled(p), pooled(q); len(p) > 1 && out.Low == out.High && min(a.Evaluated, b.Evaluated) > 0 {
		out = a.difference(b)
		out.N, out.Method = len(p), PooledNewcombe
	}
	return out
}

// pooled is the success over the episodes of all runs. If a number is unknown, it has none.
func pooled(points []Point) Point {
	var out Point
	hits := 0
	for _, p := range points {
		if p.Evaluated == 0 {
			return Point{}
		}
		out.Evaluated += p.Evaluated
		hits += p.hits()
	}
	if out.Evaluated > 0 {
		out.Success = 100 * float64(hits) / float64(out.Evaluated)
	}
	return out
}

func (p Point) hits() int { return int(math.Round(p.Success / 100 * float64(p.Evaluated))) }

// difference returns the interval of p − q (Newcombe, "Interval estimation for the
// difference between independent proportions", 1998, method 10).
func (p Point) difference(q Point) Interval {
	a, b := p.interval(), q.interval()
	mean := p.Success - q.Success
	return Interval{N: 1, Mean: mean, Method: Newcombe,
		Low:  mean - math.Hypot(a.Mean-a.Low, b.High-b.Mean),
		High: mean + math.Hypot(a.High-a.Mean, b.Mean-b.Low)}
}
