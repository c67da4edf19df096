package report

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func sweepSample() Comparison {
	c := sample()
	c.Sweep = true
	for i := range c.Curves {
		for j := range c.Curves[i].Points {
			p := &c.Curves[i].Points[j]
			p.Step, p.Score = int64(j), p.Success-50
		}
	}
	c.Failures = []Failure{{Arm: "grpo", Label: "seed 3", Error: "the server <died>"}}
	return c
}

// The bootstrap interval of a mean never leaves the range of the values, whatever they are.
func TestBootstrapStaysWithinTheRangeOfTheRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := 1; n <= 9; n++ {
		for range 20 {
			values := make([]float64, n)
			for i := range values {
				values[i] = []float64{0.1, 33.3333333, 100, 12.3, rng.Float64() * 100}[rng.IntN(5)]
			}
			i := Interval95(values)
			low, high := slices.Min(values), slices.Max(values)
			if i.Mean < low || i.Mean > high || n > 1 && (i.Low < low || i.High > high || i.Low > i.Mean || i.High < i.Mean) {
				t.Fatalf("%v: %+v", values, i)
			}
			if e := estimate(values); (e.Low == nil) != (n == 1) {
				t.Fatalf("%v: %+v", values, e)
			}
		}
	}
	if i := Interval95([]float64{.1, .1, .1}); i.Low != .1 || i.High != .1 || i.Mean != .1 {
		t.Errorf("equal runs: %+v", i)
	}
}

func TestSummariesOfASweep(t *testing.T) {
	all := sweepSample().Summaries()
	if len(all) != 2 || all[0].Arm != "empo2" || all[0].Runs != 2 || all[0].Failed != 0 || all[1].Failed != 1 {
		t.Fatalf("%+v", all)
	}
	e := all[0].Success // 60 and 80
	if *e.Mean != 70 || *e.Low != 60 || *e.High != 80 || !slices.Equal(e.Values, []float64{60, 80}) {
		t.Errorf("success %+v", e)
	}
	if h := all[0].HeldOut; *h.Mean != 12.5 || h.Low != nil || all[1].HeldOut.Mean != nil {
		t.Errorf("held-out %+v, %+v", h, all[1].HeldOut)
	}
	if s := all[0].Score; *s.Mean != 20 || *s.Low != 10 || *s.High != 30 {
		t.Errorf("score %+v", s)
	}
	if grpo := all[1].Success; *grpo.Mean != 1 || *grpo.Low != 1 || *grpo.High != 1 {
		t.Errorf("equal runs: %+v", grpo)
	}
}

func TestSweepTableAndJSON(t *testing.T) {
	var table, data strings.Builder
	if err := sweepSample().SweepTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[60.0, 80.0]", "held-out %", "failed: grpo, seed 3: the server <died>", " 70.0 "} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("no %q in\n%s", want, table.String())
		}
	}
	if err := sweepSample().SweepJSON(&data); err != nil {
		t.Fatal(err)
	}
	var read struct {
		Summary  []ArmSummary
		Curves   []Curve
		Failures []Failure
	}
	if err := json.Unmarshal([]byte(data.String()), &read); err != nil || len(read.Summary) != 2 ||
		len(read.Curves) != 4 || len(read.Failures) != 1 || *read.Summary[0].Success.High != 80 ||
		read.Curves[0].Points[2].Step != 2 {
		t.Errorf("%v, %+v", err, read)
	}
}

// The page of a sweep has four figures, the failed run, and no interval of Wilson beside a mean.
func TestPageOfASweep(t *testing.T) {
	var b strings.Builder
	if err := sweepSample().HTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{`id="steps"`, `id="episodes"`, `id="time"`, "the server &lt;died&gt;", "empo2 sweep",
		"sweep.csv", "Means over the seeds", "70.0 [60.0, 80.0]"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, wrong := range []string{string(Pooled), "empo2 compare", "<script"} {
		if strings.Contains(page, wrong) {
			t.Errorf("%q in the page", wrong)
		}
	}
	if b.Reset(); sample().HTML(&b) != nil || strings.Contains(b.String(), `id="steps"`) {
		t.Error("compare has a figure against steps")
	}
}

// Scores may be negative: the axes reach from the lowest to the highest, and percent signs are gone.
func TestFiguresOfScores(t *testing.T) {
	c := sweepSample()
	c.Metric = MetricScore
	var b strings.Builder
	if err := c.HTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Mean score without tips against training steps", "Mean score of evaluated episodes", ">-50<",
		"highest mean score: 20.0 on average"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(b.String(), "Success, % of evaluated") {
		t.Error("an axis shows the success")
	}
	if c.Curves[0].Points[2].Success != 60 {
		t.Error("the figures changed the data")
	}
	f := func(low, high, bottom, end float64) {
		t.Helper()
		if b, e := c.span(low, high); math.Abs(b-bottom) > 1e-9 || math.Abs(e-end) > 1e-9 {
			t.Errorf("%g to %g: %g to %g, want %g to %g", low, high, b, e, bottom, end)
		}
	}
	f(0, 0, 0, 1)
	f(0, 90, 0, 100)
	f(-100, 100, -100, 100)
	f(-50, 30, -50, 50)
	f(0, .03, 0, .04)
	f(-3, 0, -3, 1)
}
