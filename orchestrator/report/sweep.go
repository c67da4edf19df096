package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Failure is a run that ended with an error.
type Failure struct {
	Arm   string `json:"arm"`
	Label string `json:"label"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

// Estimate is the mean of a quantity over the runs of an arm. The interval is a bootstrap over the seeds, which never
// leaves the range of the values. Nil: unknown.
type Estimate struct {
	Mean   *float64  `json:"mean"`
	Low    *float64  `json:"low"` // of the 95 % interval; nil: fewer than two runs
	High   *float64  `json:"high"`
	Values []float64 `json:"values"` // one per run, in the order of the seeds
}

// ArmSummary is a row of the table of a sweep.
type ArmSummary struct {
	Arm     string   `json:"arm"`
	Runs    int      `json:"runs"`     // that are done
	Failed  int      `json:"failed"`   // that ended with an error
	Success Estimate `json:"success"`  // percent, in the last evaluation
	HeldOut Estimate `json:"held_out"` // percent, on held-out tasks at the end
	Score   Estimate `json:"score"`    // in the environment's unit, in the last evaluation
	Seconds Estimate `json:"seconds"`  // of training
}

// estimate computes an [Estimate].
func estimate(values []float64) Estimate {
	out := Estimate{Values: values}
	known := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	i := Interval95(values)
	out.Mean, out.Low, out.High = known(i.Mean), known(i.Low), known(i.High)
	return out
}

// texts are the mean and the interval for a table, with so many decimals.
func (e Estimate) texts(decimals int) (mean, interval string) {
	mean, interval = "–", "–"
	if e.Mean != nil {
		mean = fmt.Sprintf("%.*f", decimals, *e.Mean)
	}
	if e.Low != nil && e.High != nil {
		interval = fmt.Sprintf("[%.*f, %.*f]", decimals, *e.Low, decimals, *e.High)
	}
	return mean, interval
}

// Summaries are the arms with their means over the seeds.
func (c Comparison) Summaries() []ArmSummary {
	var out []ArmSummary
	for _, arm := range c.Arms {
		s := ArmSummary{Arm: arm}
		var success, test, score, seconds []float64
		for _, curve := range c.of(arm) {
			s.Runs++
			if last := curve.Last(); len(curve.Points) > 0 {
				success, score = append(success, last.Success), append(score, last.Score)
				seconds = append(seconds, last.Seconds)
			}
			if curve.Test != nil {
				test = append(test, curve.Test.Success)
			}
		}
		for _, f := range c.Failures {
			if f.Arm == arm {
				s.Failed++
			}
		}
		s.Success, s.HeldOut, s.Score = estimate(success), estimate(test), estimate(score)
		s.Seconds = estimate(seconds)
		out = append(out, s)
	}
	return out
}

// SweepJSON writes everything as JSON: the means, the curves, and what failed.
func (c Comparison) SweepJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	return e.Encode(c.SweepData())
}

// SweepData is what [Comparison.SweepJSON] writes.
func (c Comparison) SweepData() any {
	return struct {
		Comparison
		Summary []ArmSummary `json:"summary"`
	}{c, c.Summaries()}
}

// SweepTable writes one line per arm, then what failed.
func (c Comparison) SweepTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "setting\truns\tfailed\tsuccess %\t95 % interval\tlowest\thighest\theld-out %\t"+
		"95 % interval\tscore\t95 % interval\tseconds\t")
	for _, s := range c.Summaries() {
		lowest, highest := "–", "–"
		if len(s.Success.Values) > 0 {
			lowest = fmt.Sprintf("%.1f", slices.Min(s.Success.Values))
			highest = fmt.Sprintf("%.1f", slices.Max(s.Success.Values))
		}
		success, successInterval := s.Success.texts(1)
		test, testInterval := s.HeldOut.texts(1)
		score, scoreInterval := s.Score.texts(2)
		seconds, _ := s.Seconds.texts(1)
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", s.Arm, s.Runs, s.Failed, success,
			successInterval, lowest, highest, test, testInterval, score, scoreInterval, seconds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, "success, score: in the last evaluation; held-out: on tasks never trained on\n"+
		"intervals: bootstrap over seeds; they never leave the range of the runs, and are rough with few")
	for _, f := range c.Failures {
		_, err = fmt.Fprintf(w, "failed: %s, %s: %s\n", f.Arm, f.Label, strings.ReplaceAll(f.Error, "\n", "\n    "))
	}
	return err
}

// spread returns the interval of the mean success of one or several runs.
func (c Comparison) spread(points []Point) Interval {
	switch {
	case c.Sweep:
		return Interval95(successes(points))
	case len(points) == 1:
		return points[0].interval()
	}
	return overRuns(points)
}

// plotted returns the comparison with the metric that its figures show in the place of the success.
func (c Comparison) plotted() Comparison {
	if c.Metric != MetricScore {
		return c
	}
	c.Curves = slices.Clone(c.Curves)
	for i := range c.Curves {
		points := slices.Clone(c.Curves[i].Points)
		for j := range points {
			points[j].Success, points[j].Evaluated = points[j].Score, 0
		}
		c.Curves[i].Points = points
	}
	return c
}

// MetricScore is the metric of figures that show the mean score, not the success.
const MetricScore = "score"

// metric is the name of what the figures show, for the middle of a sentence.
func (c Comparison) metric() string {
	if c.Metric == MetricScore {
		return "mean score"
	}
	return "success"
}

// metricAxis is the name of the axis of the metric.
func (c Comparison) metricAxis() string {
	if c.Metric == MetricScore {
		return "Mean score of evaluated episodes"
	}
	return "Success, % of evaluated episodes"
}

// unit is the unit of the metric behind a number.
func (c Comparison) unit() string {
	if c.Metric == MetricScore {
		return ""
	}
	return " %"
}

// span returns the ends of the axis of the metric, so that it reaches from low to high.
func (c Comparison) span(low, high float64) (bottom, end float64) {
	if c.Metric != MetricScore {
		return 0, top(high)
	}
	low, high = math.Min(0, low), math.Max(0, high)
	if low == high {
		return 0, 1
	}
	for step := math.Pow(10, math.Floor(math.Log10((high-low)/4))); ; step *= 10 {
		for _, factor := range []float64{1, 2, 2.5, 5} {
			bottom = math.Floor(low/(factor*step)) * factor * step
			if end = bottom + 4*factor*step; end >= high {
				return bottom, end
			}
		}
	}
}
