// Package report compares runs: as a text table, and as one HTML page with
// learning curves by episodes and by seconds. The page needs no other file.
// Start with [Comparison].
package report

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/gonum/stat"
)

// Point is one evaluation without tips.
type Point struct {
	Episodes int     `json:"episodes"` // training episodes until then
	Seconds  float64 `json:"seconds"`  // training seconds until then
	Success  float64 `json:"success"`  // percent
}

// Curve is one run.
type Curve struct {
	Arm string `json:"arm"` // the setting that is compared: "empo2", "grpo", …
	// TimeBudget marks a run that trained for as many seconds as another run,
	// not for as many episodes. The figure over episodes omits it.
	TimeBudget bool     `json:"time_budget,omitempty"`
	Label      string   `json:"label"` // the run: its house and seed
	Steps      int64    `json:"steps"`
	Hits       int      `json:"hits"`           // training episodes without tips that succeeded
	Tips       int      `json:"tips"`           // tips written
	Test       *float64 `json:"test,omitempty"` // percent on held-out tasks at the end; nil if there are none
	Points     []Point  `json:"points"`
}

// Last returns the final evaluation, or the zero Point if there is none.
func (c Curve) Last() Point {
	if len(c.Points) == 0 {
		return Point{}
	}
	return c.Points[len(c.Points)-1]
}

// Comparison is a set of runs.
type Comparison struct {
	Title  string   `json:"title"`
	Note   string   `json:"note"`
	Arms   []string `json:"arms"` // in the order of display
	Curves []Curve  `json:"curves"`
}

// Interval is a mean with its 95 % interval, in the unit of the values. The
// interval is the percentile bootstrap of the mean over runs: it never leaves
// the range of the values. With a single run Low and High are NaN.
type Interval struct {
	Mean, Low, High float64
	N               int
}

const (
	// exactResamples is the largest number of values for which all n^n
	// resamples are computed.
	exactResamples = 6
	// drawnResamples is how many resamples are drawn for more values.
	drawnResamples = 20_000
)

// Interval95 computes the interval of values (Efron and Tibshirani, "An
// Introduction to the Bootstrap", section 13.3). Equal values in equal order
// give equal intervals.
func Interval95(values []float64) Interval {
	out := Interval{N: len(values), Mean: math.NaN(), Low: math.NaN(), High: math.NaN()}
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
	return out
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

// of returns the arm's curves, by label.
func (c Comparison) of(arm string) []Curve {
	var out []Curve
	for _, curve := range c.Curves {
		if curve.Arm == arm {
			out = append(out, curve)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Label < out[j].Label })
	return out
}

// Final returns the arm's interval over the final evaluations of its runs.
func (c Comparison) Final(arm string) Interval {
	var values []float64
	for _, curve := range c.of(arm) {
		values = append(values, curve.Last().Success)
	}
	return Interval95(values)
}

// Table writes one line per run and one per arm.
func (c Comparison) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "arm\trun\tsteps\tepisodes\tseconds\ttips written\thits without tips\t"+
		"success %, no tips\theld-out %\t")
	for _, arm := range c.Arms {
		for _, curve := range c.of(arm) {
			p := curve.Last()
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.0f\t%d\t%d\t%.1f\t%s\t\n", arm, curve.Label, curve.Steps,
				p.Episodes, p.Seconds, curve.Tips, curve.Hits, p.Success, number(curve.Test))
		}
	}
	for _, arm := range c.Arms {
		i := c.Final(arm)
		fmt.Fprintf(t, "%s\tmean of %d\t\t\t\t\t\t%.1f\t\t%s\n", arm, i.N, i.Mean, i)
	}
	return t.Flush()
}

func number(v *float64) string {
	if v == nil {
		return "–"
	}
	return fmt.Sprintf("%.1f", *v)
}

// String returns the bounds as text, or "" for a single run.
func (i Interval) String() string {
	if math.IsNaN(i.Low) {
		return ""
	}
	return fmt.Sprintf("95 %% interval [%.1f, %.1f]", i.Low, i.High)
}

// escape makes text safe for HTML and SVG.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace
