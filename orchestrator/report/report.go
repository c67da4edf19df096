// Package report compares runs: as a text table, and as one HTML page with
// learning curves by episodes, by tokens and by seconds. The page needs no other file and
// no JavaScript. Start with [Comparison].
//
//   - interval.go computes intervals: Wilson's within a run, a bootstrap over seeds.
//     paired.go and sequential.go compare two settings on the same tasks.
//   - curves.go computes means and bands, axis.go their axes.
//   - sweep.go has the means of the arms over the seeds.
//   - plot.go draws them as SVG, csv.go writes their numbers, html.go writes the page from
//     page.html and style.css.
package report

import (
	"fmt"
	"io"
	"sort"
	"text/tabwriter"
)

// Point is one evaluation.
type Point struct {
	Step      int64   `json:"step,omitempty"`      // training steps until then
	Episodes  int     `json:"episodes"`            // training episodes until then
	Seconds   float64 `json:"seconds"`             // training seconds until then
	Tokens    int     `json:"tokens,omitempty"`    // of the rows that were trained until then
	Success   float64 `json:"success"`             // percent of the evaluated episodes
	Evaluated int     `json:"evaluated,omitempty"` // episodes of the evaluation; 0: unknown
	Score     float64 `json:"score,omitempty"`     // mean score, in the environment's unit
}

// Curve is one run.
type Curve struct {
	Arm string `json:"arm"` // the setting that is compared: "empo2", "grpo", …
	// TimeBudget marks a run that trained for as many seconds as another run,
	// not for as many episodes. The figure over episodes omits it.
	TimeBudget bool    `json:"time_budget,omitempty"`
	Label      string  `json:"label"` // the run: its seed, or its house and seed
	Steps      int64   `json:"steps"`
	Hits       int     `json:"hits"`           // training episodes without tips that succeeded
	Tips       int     `json:"tips"`           // tips written
	Test       *Point  `json:"test,omitempty"` // on held-out tasks at the end; nil if there are none
	Points     []Point `json:"points"`         // in the order of training
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
	Facts  []string `json:"facts"` // sentences about all runs
	Arms   []string `json:"arms"`  // in the order of display
	Curves []Curve  `json:"curves"`
	// Settings are the keys in which the arms differ.
	Settings []Setting `json:"settings,omitempty"`
	Notes    []string  `json:"notes,omitempty"`
	// Failures are the runs that ended with an error. They have no curve.
	Failures []Failure `json:"failures,omitempty"`
	// Metric is what the figures show: empty for the success, or [MetricScore].
	Metric string `json:"metric,omitempty"`
	// Sweep: all intervals are bootstraps over the seeds, and there are figures against steps.
	Sweep bool `json:"-"`
}

// Setting is a key with its value in each arm.
type Setting struct {
	Key    string   `json:"key"`
	Values []string `json:"values"` // in the order of the arms
}

// of returns the arm's curves, by label.
func (c Comparison) of(arm string) []Curve {
	var out []Curve
	for _, curve := range c.Curves {
		if curve.Arm == arm {
			out = append(out, curve)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return naturalLess(out[i].Label, out[j].Label) })
	return out
}

// naturalLess orders labels such as "seed 2" before "seed 10".
func naturalLess(a, b string) bool {
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a < b
}

// Final returns the arm's success in the final evaluations: a bootstrap over several
// runs, and Wilson's interval for one.
func (c Comparison) Final(arm string) Interval {
	var last []Point
	for _, curve := range c.of(arm) {
		if len(curve.Points) > 0 {
			last = append(last, curve.Last())
		}
	}
	return c.spread(last)
}

// Difference returns how much higher the success of arm is than that of base, in
// percentage points, over the runs that both have.
func (c Comparison) Difference(arm, base string) Interval {
	before := map[string]Point{}
	for _, curve := range c.of(base) {
		if len(curve.Points) > 0 {
			before[curve.Label] = curve.Last()
		}
	}
	var p, q []Point
	for _, curve := range c.of(arm) {
		if b, ok := before[curve.Label]; ok && len(curve.Points) > 0 {
			p, q = append(p, curve.Last()), append(q, b)
		}
	}
	if c.Sweep {
		values := successes(p)
		for i, v := range successes(q) {
			values[i] -= v
		}
		return Interval95(values)
	}
	if len(p) == 1 {
		return p[0].difference(q[0])
	}
	return differences(p, q)
}

// Table writes one line per run and one per arm.
func (c Comparison) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "arm\trun\tsteps\tepisodes\tseconds\ttips written\thits without tips\t"+
		"success %, no tips\t95 % interval\theld-out %\t")
	for _, arm := range c.Arms {
		for _, curve := range c.of(arm) {
			p := curve.Last()
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.0f\t%d\t%d\t%s\t%s\t%s\t\n", arm, curve.Label, curve.Steps, p.Episodes,
				p.Seconds, curve.Tips, curve.Hits, curve.success(), p.interval(), percent(curve.Test))
		}
	}
	for _, arm := range c.Arms {
		i := c.Final(arm)
		if i.N == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\tmean of %d\t\t\t\t\t\t%.1f\t%s\t\t\n", arm, i.N, i.Mean, i)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "intervals: Wilson's within a run; of a mean of several runs a bootstrap over the runs, or "+
		"Wilson's if they are equal")
	return err
}

// success is the final success as text.
func (c Curve) success() string {
	if len(c.Points) == 0 {
		return "–"
	}
	return percent(&c.Points[len(c.Points)-1])
}

func percent(p *Point) string {
	if p == nil {
		return "–"
	}
	return fmt.Sprintf("%.1f", p.Success)
}
