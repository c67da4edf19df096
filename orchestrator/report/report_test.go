package report

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

func sample() Comparison {
	test := 12.5
	return Comparison{
		Title: "a <b> & c", Note: "note", Arms: []string{"empo2", "grpo"},
		Curves: []Curve{
			{Arm: "empo2", Label: "house 1", Steps: 2, Test: &test,
				Points: []Point{{0, 0, 0}, {100, 10, 40}, {200, 20, 60}}},
			{Arm: "empo2", Label: "house 2", Steps: 2, Points: []Point{{0, 0, 0}, {200, 25, 80}}},
			{Arm: "grpo", Label: "house 1", Steps: 2, Points: []Point{{0, 0, 0}, {200, 5, 1}}},
			{Arm: "grpo", TimeBudget: true, Label: "house 2", Steps: 9, Points: []Point{{0, 0, 0}, {9000, 25, 1}}},
		},
	}
}

func TestInterval95(t *testing.T) {
	f := func(values []float64, mean, low, high float64) {
		t.Helper()
		i := Interval95(values)
		for _, d := range []float64{i.Mean - mean, i.Low - low, i.High - high} {
			if math.Abs(d) > 0.05 {
				t.Errorf("%v: got %+v, want %v [%v, %v]", values, i, mean, low, high)
				return
			}
		}
	}
	// The means of the four resamples are 0, 5, 5 and 10.
	f([]float64{0, 10}, 5, 0, 10)
	f([]float64{4, 4, 4}, 4, 4, 4)
	// Computed independently over all 5^5 resamples.
	f([]float64{95.3, 71.9, 76.6, 92.6, 91.4}, 85.56, 77.0, 93.4)
	f([]float64{23.4, 0, 0, 0, 0}, 4.68, 0, 14.04)

	many := []float64{0, 0, 0, 0, 0, 0, 0, 100}
	i, again := Interval95(many), Interval95(many)
	if i != again || i.Low < 0 || i.High > 100 || !(i.Low < i.Mean && i.Mean < i.High) {
		t.Errorf("got %+v and %+v", i, again)
	}
	if one := Interval95([]float64{7}); one.Mean != 7 || !math.IsNaN(one.Low) || one.String() != "" {
		t.Errorf("a single run has an interval: %+v", one)
	}
	if none := Interval95(nil); !math.IsNaN(none.Mean) {
		t.Errorf("no run has a mean: %+v", none)
	}
}

func TestWilson95(t *testing.T) {
	f := func(hits, n int, low, high float64) {
		t.Helper()
		l, h := Wilson95(hits, n)
		if math.Abs(l-low) > 5e-5 || math.Abs(h-high) > 5e-5 {
			t.Errorf("%d of %d: %.4f to %.4f, want %.4f to %.4f", hits, n, l, h, low, high)
		}
	}
	f(81, 263, 0.2553, 0.3662) // Newcombe, "Two-sided confidence intervals for the single proportion", table I
	f(15, 148, 0.0624, 0.1605)
	f(0, 20, 0, 0.1611)
	f(1, 29, 0.0061, 0.1718)
	f(20, 20, 0.8389, 1)
	f(0, 0, 0, 1)
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := sample().Table(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"house 1", "60.0", "12.5", "mean of 2", "70.0", "interval ["} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestHTMLNeedsNoOtherFile(t *testing.T) {
	var b strings.Builder
	if err := sample().HTML(&b); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	if strings.Contains(page, "<b>") || !strings.Contains(page, "a &lt;b&gt; &amp; c") {
		t.Error("text is not escaped")
	}
	for _, outside := range []string{"http://", "https://", "src=", "<script", "@import", "NaN", "Inf"} {
		if strings.Contains(page, outside) {
			t.Errorf("the page holds %q", outside)
		}
	}
	episodes, _, _ := strings.Cut(page, "</svg>")
	if strings.Contains(episodes, "9000") {
		t.Error("the figure over episodes has a run with a time budget")
	}
	for _, svg := range strings.SplitAfter(page, "</svg>")[:2] {
		checkXML(t, svg[strings.Index(svg, "<svg"):])
	}
}

func checkXML(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
}

func TestSVGIsAPictureOfItsOwn(t *testing.T) {
	var b strings.Builder
	if err := sample().SVG(&b); err != nil {
		t.Fatal(err)
	}
	picture := b.String()
	checkXML(t, picture)
	for _, want := range []string{
		`xmlns="http://www.w3.org/2000/svg"`, "a &lt;b&gt; &amp; c", ">empo2<", ">grpo<",
		"training episodes", "seconds of training",
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("no %q in\n%s", want, picture)
		}
	}
	if n := strings.Count(picture, "<polyline"); n != 3+2+4+2 { // runs and means over episodes, then over seconds
		t.Errorf("%d curves", n)
	}
}

func TestMeanCurveEndsWithTheShortestRun(t *testing.T) {
	f := frame{maxX: 25, x: func(p Point) float64 { return p.Seconds }}
	mean := f.mean(sample().of("empo2"))
	last := mean[len(mean)-1]
	// At 20 s: 60 and, halfway between 0 and 80 at 25 s, 64.
	if last.Seconds != 20 || math.Abs(last.Success-62) > 1e-9 {
		t.Errorf("got %+v", last)
	}
}
