// Package report turns the results of several runs into a table and one
// self-contained picture: learning curves per arm, by episodes and by
// seconds, as HTML with inline SVG.
package report

import (
	"fmt"
	"io"
	"math"
	"sort"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/gonum/stat/distuv"
)

// Point is one evaluation without tips.
type Point struct {
	Episodes int     `json:"episodes"` // training episodes until then
	Seconds  float64 `json:"seconds"`  // training seconds until then
	Success  float64 `json:"success"`  // percent
}

// Curve is one run.
type Curve struct {
	Arm string `json:"arm"` // what is compared: "empo2", "grpo", …
	// TimeBudget: the run had the same seconds as another run, not the same
	// episodes. The figure over episodes leaves it out.
	TimeBudget bool     `json:"time_budget,omitempty"`
	Label      string   `json:"label"` // the run: its house and seed
	Steps      int64    `json:"steps"`
	Hits       int      `json:"hits"`           // training episodes without tips that succeeded
	Tips       int      `json:"tips"`           // tips written
	Test       *float64 `json:"test,omitempty"` // percent on held-out tasks at the end; nil if there are none
	Points     []Point  `json:"points"`
}

// Last is the final evaluation; the zero Point if there is none.
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

// Interval is a mean with its 95 % confidence interval (Student's t over
// runs), in percent. With a single run Low and High are NaN.
type Interval struct {
	Mean, Low, High float64
	N               int
}

// Interval95 computes the interval of values.
func Interval95(values []float64) Interval {
	n := float64(len(values))
	out := Interval{N: len(values), Mean: math.NaN(), Low: math.NaN(), High: math.NaN()}
	if n == 0 {
		return out
	}
	sum, squares := 0.0, 0.0
	for _, v := range values {
		sum += v
	}
	out.Mean = sum / n
	for _, v := range values {
		squares += (v - out.Mean) * (v - out.Mean)
	}
	if n > 1 {
		t := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: n - 1}.Quantile(0.975)
		half := t * math.Sqrt(squares/(n-1)/n)
		out.Low, out.High = out.Mean-half, out.Mean+half
	}
	return out
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

// Final is the arm's interval over its runs' final evaluations.
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
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.0f\t%d\t%d\t%.1f\t%s\t\n", arm, curve.Label, curve.Steps, p.Episodes,
				p.Seconds, curve.Tips, curve.Hits, p.Success, number(curve.Test))
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

// String is "[low, high]", empty for a single run.
func (i Interval) String() string {
	if math.IsNaN(i.Low) {
		return ""
	}
	return fmt.Sprintf("95 %% interval [%.1f, %.1f]", i.Low, i.High)
}

// escape makes text safe for HTML and SVG.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace
