package report

import (
	"encoding/base64"
	"encoding/xml"
	"errors"
	"html"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func sample() Comparison {
	test := Point{Success: 12.5, Evaluated: 16}
	return Comparison{
		Title: "a <b> & c", Facts: []string{"fact <i>"}, Arms: []string{"empo2", "grpo"},
		Curves: []Curve{
			{Arm: "empo2", Label: "seed 1", Steps: 2, Test: &test,
				Points: []Point{point(0, 0, 0), point(100, 10, 40), point(200, 20, 60)}},
			{Arm: "empo2", Label: "seed 2", Steps: 2, Points: []Point{point(0, 0, 0), point(200, 25, 80)}},
			{Arm: "grpo", Label: "seed 1", Steps: 2, Points: []Point{point(0, 0, 0), point(200, 5, 1)}},
			{Arm: "grpo", TimeBudget: true, Label: "seed 2", Steps: 9, Points: []Point{point(0, 0, 0), point(9000, 25, 1)}},
		},
		Settings: []Setting{{"algorithm.name", []string{`"empo2"`, `"grpo"`}}},
		Notes:    []string{"arm grpo: memory.k has no effect"},
	}
}

// point is an evaluation of 100 episodes.
func point(episodes int, seconds, success float64) Point {
	return Point{Episodes: episodes, Seconds: seconds, Success: success, Evaluated: 100}
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
	if one := Interval95([]float64{7}); one.Mean != 7 || !math.IsNaN(one.Low) || one.Known() || one.String() != "–" {
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
	for _, want := range []string{"seed 1", "60.0", "12.5", "mean of 2", "70.0", "[60.0, 80.0]", "[50.2, 69.1]"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
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
		`xmlns="http://www.w3.org/2000/svg"`, "a &lt;b&gt; &amp; c", ">empo2<", ">grpo<", ">Training episodes<",
		">Training time in seconds<", ">Success, % of evaluated episodes<", "prefers-color-scheme:dark",
	} {
		if !strings.Contains(picture, want) {
			t.Errorf("no %q in\n%s", want, picture)
		}
	}
	// Over episodes grpo has one run, whose mean it is. Over seconds it has two.
	for class, want := range map[string]int{"run ": 2 + 4, "mean ": 2 + 2, "band ": 2 + 2} {
		if n := strings.Count(picture, `class="`+class); n != want {
			t.Errorf("%d times %q, want %d", n, class, want)
		}
	}
}

// Trained tokens are an axis of their own, without the runs that trained none. Each figure is a
// file that the page offers without a script, and so is the table.
func TestCurvesAgainstTokens(t *testing.T) {
	c := sample()
	for i := range c.Curves[:3] {
		for k := range c.Curves[i].Points {
			c.Curves[i].Points[k].Tokens = 40_000 * k * (i + 1)
		}
	}
	var page, table, picture strings.Builder
	if err := errors.Join(c.HTML(&page), c.CSV(&table), c.SVG(&picture)); err != nil {
		t.Fatal(err)
	}
	checkXML(t, picture.String())
	for _, want := range []string{`<h2 id="tokens">`, ">Trained tokens in thousands<", "<dt>trained tokens</dt>"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	const third = "empo2,seed 1,200,80000,20,60,50.2003,69.0599,100,0,0"
	if rows := strings.Split(table.String(), "\n"); len(rows) != 11 || rows[3] != third {
		t.Errorf("the table is\n%s", table.String())
	}
	files := regexp.MustCompile(`href="data:([^"]+);base64,([^"]+)" download="([^"]+)"`).
		FindAllStringSubmatch(page.String(), -1)
	got := map[string]string{}
	for _, file := range files {
		text, err := base64.StdEncoding.DecodeString(html.UnescapeString(file[2]))
		if err != nil {
			t.Fatal(err)
		}
		got[file[3]] = string(text)
	}
	if len(got) != 4 || got["compare.csv"] != table.String() {
		t.Errorf("the page offers %d files, want three figures and the table", len(got))
	}
	checkXML(t, got["tokens.svg"])
	// Over tokens empo2 has two runs, and grpo one, whose mean it is.
	for class, want := range map[string]int{"run ": 2, "mean ": 2} {
		if n := strings.Count(got["tokens.svg"], `class="`+class); n != want {
			t.Errorf("%d times %q, want %d", n, class, want)
		}
	}
	c.Curves[2].Points = []Point{point(0, 0, 0), point(200, 5, 1)}
	page.Reset()
	if err := c.HTML(&page); err != nil || !strings.Contains(page.String(), "Not shown: grpo (it trained no token") {
		t.Errorf("%v; the figure does not say that grpo is missing", err)
	}
	page.Reset()
	if err := sample().HTML(&page); err != nil || strings.Contains(page.String(), `<h2 id="tokens">`) {
		t.Errorf("%v; without tokens there is a figure", err)
	}
}

func TestUnitOfTokens(t *testing.T) {
	f := func(n int, want string) {
		t.Helper()
		if got := tokens([]Curve{{Points: []Point{{Tokens: n}}}}, 4).label(); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	f(900, "Trained tokens")
	f(40_000, "Trained tokens in thousands")
	f(5_000_000, "Trained tokens in millions")
}

func TestMeanCurveEndsWithTheShortestRun(t *testing.T) {
	curves := sample().of("empo2")
	all := bands(curves, time(curves, 4), sample().spread)
	last := all[len(all)-1]
	// At 20 s: 60 and, between 0 and 80 at 25 s, 64.
	if last.x != 20 || math.Abs(last.Mean-62) > 1e-9 || last.Low != 60 || last.High != 64 || last.Method != Bootstrap {
		t.Errorf("got %+v", last)
	}
}

// The interval of a single run is Wilson's, and never leaves 0 to 100 %.
func TestIntervalsStayWithinTheRange(t *testing.T) {
	for hits := range 21 {
		p := Point{Success: 100 * float64(hits) / 20, Evaluated: 20}
		i := p.interval()
		if i.Method != Wilson || i.Low < 0 || i.High > 100 || i.Low > i.Mean || i.High < i.Mean {
			t.Errorf("%d of 20: %+v", hits, i)
		}
		for other := range 21 {
			d := p.difference(Point{Success: 100 * float64(other) / 20, Evaluated: 20})
			if d.Low < -100 || d.High > 100 || d.Low > d.Mean || d.High < d.Mean {
				t.Errorf("%d against %d of 20: %+v", hits, other, d)
			}
		}
	}
	for _, low := range []Point{{Success: 50}, {}} {
		if i := low.interval(); i.Known() {
			t.Errorf("unknown numbers of episodes have an interval: %+v", i)
		}
	}
}

// Newcombe, "Interval estimation for the difference between independent
// proportions", table II, method 10.
func TestDifferenceOfTwoRuns(t *testing.T) {
	d := Point{Success: 100 * 56.0 / 70, Evaluated: 70}.difference(Point{Success: 100 * 48.0 / 80, Evaluated: 80})
	if math.Abs(d.Mean-20) > 1e-9 || math.Abs(d.Low-5.24) > 0.005 || math.Abs(d.High-33.39) > 0.005 {
		t.Errorf("got %+v", d)
	}
}

// Runs with equal results say nothing about how seeds differ, but their episodes do.
func TestEqualRuns(t *testing.T) {
	c := Comparison{Arms: []string{"a", "b"}}
	for _, label := range []string{"seed 1", "seed 2"} {
		for _, arm := range c.Arms {
			c.Curves = append(c.Curves, Curve{Arm: arm, Label: label, Points: []Point{point(0, 0, 0), point(9, 9, 0)}})
		}
	}
	_, high := Wilson95(0, 200)
	if i := c.Final("a"); i.Method != Pooled || i.N != 2 || i.Low != 0 || math.Abs(i.High-100*high) > 1e-9 {
		t.Errorf("got %+v", i)
	}
	if d := c.Difference("b", "a"); d.Method != PooledNewcombe || d.N != 2 || d.Mean != 0 || d.High < 1 || d.Low > -1 {
		t.Errorf("got %+v", d)
	}
	line := bands(c.of("a"), episodes(c.of("a"), 4), c.spread)
	if last := line[len(line)-1]; last.Method != Pooled || last.High < 1 || last.Mean != 0 {
		t.Errorf("got %+v", last)
	}
	c.Curves[0].Points[1].Evaluated = 0 // unknown
	if i := c.Final("a"); i.Method != Bootstrap || i.Low != 0 || i.High != 0 {
		t.Errorf("got %+v", i)
	}
}

// Runs with the same seed are compared in pairs.
func TestDifference(t *testing.T) {
	c := sample()
	d := c.Difference("empo2", "grpo") // 60 − 1 and 80 − 1
	if d.N != 2 || d.Mean != 69 || d.Low != 59 || d.High != 79 || d.Method != Bootstrap {
		t.Errorf("got %+v", d)
	}
	c.Curves[3].Label = "seed 3" // not a seed of empo2
	if d := c.Difference("empo2", "grpo"); d.N != 1 || d.Mean != 59 || d.Method != Newcombe {
		t.Errorf("got %+v", d)
	}
	if d := c.Difference("empo2", "none"); d.N != 0 {
		t.Errorf("got %+v", d)
	}
}

func TestVerdict(t *testing.T) {
	f := func(want string, c Comparison) {
		t.Helper()
		if got := c.verdict(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	run := func(arm, label string, success float64) Curve {
		return Curve{Arm: arm, Label: label, Points: []Point{point(9, 9, success)}}
	}
	arms := []string{"a", "b"}
	f("There is no evaluation yet.", Comparison{Arms: arms})
	f("All arms end with a success of 0.0 %.", Comparison{Arms: arms, Curves: []Curve{run("a", "1", 0), run("b", "1", 0)}})
	f("b ends with the highest success: 60.0 % in one run, 95 % interval 50.2 to 69.1 %. "+
		"That is 5.0 points above a [-8.6, 18.3], which may be chance.",
		Comparison{Arms: arms, Curves: []Curve{run("a", "1", 55), run("b", "1", 60)}})
	f("a ends with the highest success: 75.0 % on average over 2 runs, 95 % interval 70.0 to 80.0 %. "+
		"That is 55.0 points above b [40.0, 70.0].",
		Comparison{Arms: arms, Curves: []Curve{run("a", "1", 70), run("a", "2", 80), run("b", "1", 30), run("b", "2", 10)}})
}

func TestTicks(t *testing.T) {
	f := func(v float64, n int, want string) {
		t.Helper()
		var a axis
		a.max, a.step = end(v, n)
		var got []string
		for _, tick := range a.ticks() {
			got = append(got, number(tick))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%g with %d ticks: %s, want %s", v, n, text, want)
		}
	}
	f(3072, 4, "0 1,000 2,000 3,000")
	f(3072, 8, "0 500 1,000 1,500 2,000 2,500 3,000")
	f(0.7, 4, "0 0.2 0.4 0.6")
	f(100, 4, "0 50 100")
	f(1234567, 3, "0 500,000 1,000,000")
	f(0, 4, "0 1")
}

func TestPercentAxis(t *testing.T) {
	f := func(v, want float64) {
		t.Helper()
		if got := top(v); got != want {
			t.Errorf("%g: %g, want %g", v, got, want)
		}
	}
	f(0, 5)
	f(5, 5)
	f(5.1, 10)
	f(26, 50)
	f(99, 100)
	f(100, 100)
}

// Texts and series can be told from the background, in light and dark (WCAG 2.2: 4.5
// and 3). The page and its figures have the same colours.
func TestContrast(t *testing.T) {
	css, dims, ok := strings.Cut(style, "@media (prefers-color-scheme:dark)")
	if !ok {
		t.Fatal("no dark scheme")
	}
	for name, s := range map[string]struct {
		scheme
		css string
	}{"light": {light, css}, "dark": {dark, dims}} {
		for _, text := range []string{s.ink, s.muted} {
			for _, ground := range []string{s.paper, s.card} {
				if c := contrast(text, ground); c < 4.5 {
					t.Errorf("%s: text %s on %s has a contrast of %.2f", name, text, ground, c)
				}
			}
		}
		for _, line := range s.series {
			if c := contrast(line, s.paper); c < 3 {
				t.Errorf("%s: a line of %s has a contrast of %.2f", name, line, c)
			}
		}
		want := "--paper:" + s.paper + ";--card:" + s.card + ";--ink:" + s.ink + ";--muted:" + s.muted + ";--grid:" + s.grid
		if !strings.Contains(s.css, want) {
			t.Errorf("%s: style.css has no %s", name, want)
		}
	}
	if len(light.series) != len(dark.series) {
		t.Error("the schemes have different numbers of series")
	}
}

// contrast is the contrast of two colours (WCAG 2.2, relative luminance).
func contrast(a, b string) float64 {
	luminance := func(colour string) float64 {
		sum := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			n, err := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8)
			if err != nil {
				panic(err)
			}
			v := float64(n) / 255
			if v <= 0.04045 {
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			sum += weight * v
		}
		return sum
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// An arm without a run, a run without an evaluation and a comparison without anything
// are shown too.
func TestNothingToShow(t *testing.T) {
	for _, c := range []Comparison{
		{Title: "empty", Arms: []string{"a"}},
		{Title: "no evaluation", Arms: []string{"a", "b"}, Curves: []Curve{{Arm: "a", Label: "seed 1", Steps: 3}}},
		{Title: "long names", Arms: []string{strings.Repeat("long-", 12), "b"}, Curves: []Curve{
			{Arm: strings.Repeat("long-", 12), Label: "seed 1", Points: []Point{point(0, 0, 0)}}}},
	} {
		var page, picture, table strings.Builder
		if err := errors.Join(c.HTML(&page), c.SVG(&picture), c.Table(&table)); err != nil {
			t.Errorf("%s: %v", c.Title, err)
		}
		checkXML(t, picture.String())
		for _, wrong := range []string{"NaN", "Inf", "%!"} {
			if strings.Contains(page.String()+picture.String()+table.String(), wrong) {
				t.Errorf("%s: %s is shown", c.Title, wrong)
			}
		}
	}
}
