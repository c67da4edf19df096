package report

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed page.html
var pageText string

//go:embed style.css
var style string

var page = template.Must(template.New("page").Parse(pageText))

// HTML writes the whole comparison as one page that needs no other file.
func (c Comparison) HTML(w io.Writer) error {
	shown := c.plotted()
	p := pageData{Comparison: c, Style: template.CSS(style + figureStyle()), Verdict: shown.verdict(),
		Forest:  template.HTML(wideForest.draw(shown, "wide") + narrowForest.draw(shown, "narrow")),
		Command: "compare", Column: c.metric() + strings.Replace(c.unit(), " ", ", ", 1)}
	if c.Sweep {
		p.Command, p.Means = "sweep", c.means()
	}
	for i, arm := range c.Arms {
		key := `<svg class="key" viewBox="-12 -8 24 16" aria-hidden="true"><path class="mean l%d" d="M-12 0h24"/>%s</svg>`
		p.Keys = append(p.Keys, pageKey{Name: arm, Mark: template.HTML(fmt.Sprintf(key, series(i), mark(i, 0, 0)))})
	}
	var table strings.Builder
	if err := c.CSV(&table); err != nil {
		return err
	}
	p.Data = download("text/csv", table.String())
	for _, f := range shown.figures() {
		p.Figures = append(p.Figures, shown.figure(f, p.Keys))
	}
	for i, arm := range c.Arms {
		final := shown.Final(arm)
		row := pageArm{Name: arm, Runs: final.N, Mean: "–", Interval: final.String()}
		if final.N > 0 {
			row.Mean, row.Method = fmt.Sprintf("%.1f", final.Mean), string(final.Method)
		}
		if d := shown.Difference(arm, c.Arms[0]); i > 0 && d.N > 0 {
			row.Difference = fmt.Sprintf("%+.1f %s", d.Mean, d)
			p.Compared = true
		}
		p.Rows = append(p.Rows, row)
		for _, curve := range c.of(arm) {
			p.Runs = append(p.Runs, c.run(arm, curve))
			p.TimeBudget = p.TimeBudget || curve.TimeBudget
		}
	}
	return page.Execute(w, p)
}

// pageData is what page.html shows.
type pageData struct {
	Comparison
	Style      template.CSS
	Verdict    string
	Forest     template.HTML
	Data       template.URL // the evaluations as a CSV file
	Keys       []pageKey
	Figures    []pageFigure
	Rows       []pageArm
	Runs       []pageRun
	Compared   bool   // there is a difference to show
	TimeBudget bool   // an arm has the seconds of another one
	Command    string // that writes the page, and the name of the files beside it
	Column     string // what the table of arms and the figures show, with its unit
	Means      []pageMeans
}

// pageMeans is a row of the table of a sweep.
type pageMeans struct {
	Name                                                                     string
	Runs, Failed                                                             int
	Success, SuccessInterval, HeldOut, HeldOutInterval, Score, ScoreInterval string
}

// means are the rows of the table of a sweep.
func (c Comparison) means() []pageMeans {
	var out []pageMeans
	for _, s := range c.Summaries() {
		row := pageMeans{Name: s.Arm, Runs: s.Runs, Failed: s.Failed}
		row.Success, row.SuccessInterval = s.Success.texts(1)
		row.HeldOut, row.HeldOutInterval = s.HeldOut.texts(1)
		row.Score, row.ScoreInterval = s.Score.texts(2)
		out = append(out, row)
	}
	return out
}

type pageKey struct {
	Name string
	Mark template.HTML
}

// pageArm is a row of the table of arms.
type pageArm struct {
	Name                               string
	Runs                               int
	Mean, Interval, Method, Difference string
}

// pageRun is a row of the table of runs.
type pageRun struct {
	Arm, Label, Steps, Episodes, Time, Tips, Hits, Success, HeldOut, Score string
}

func (c Comparison) run(arm string, curve Curve) pageRun {
	last := curve.Last()
	out := pageRun{Arm: arm, Label: curve.Label, Steps: number(float64(curve.Steps)),
		Episodes: number(float64(last.Episodes)), Time: duration(last.Seconds), Tips: number(float64(curve.Tips)),
		Hits: number(float64(curve.Hits)), Success: "–", HeldOut: "–", Score: "–"}
	if len(curve.Points) > 0 {
		out.Success, out.Score = last.String(), fmt.Sprintf("%.1f", last.Score)
	}
	if curve.Test != nil {
		out.HeldOut = curve.Test.String()
	}
	return out
}

// String is the success with its interval.
func (p Point) String() string { return fmt.Sprintf("%.1f %s", p.Success, p.interval()) }

// pageFigure is a figure with the numbers that it shows.
type pageFigure struct {
	ID, Caption, Axis string
	Drawing           template.HTML
	Picture           template.URL // a file of its own
	Keys              []pageKey    // of the arms in it
	Points            []pagePoint
	Missing           string // arms that the figure cannot show
}

type pagePoint struct{ Arm, Label, X, Success, Interval, Evaluated string }

func (c Comparison) figure(f figure, keys []pageKey) pageFigure {
	out := pageFigure{ID: f.id, Caption: f.caption,
		Drawing: template.HTML(c.inline(f, wide, "wide") + c.inline(f, narrow, "narrow"))}
	out.Picture = download("image/svg+xml", c.picture([]figure{f}))
	var all []Curve
	var missing []string
	for i, arm := range c.Arms {
		curves := c.drawn(arm, f)
		if all = append(all, curves...); len(curves) > 0 {
			out.Keys = append(out.Keys, keys[i])
		} else if len(c.of(arm)) > 0 {
			missing = append(missing, arm)
		}
	}
	if out.Missing = strings.Join(missing, ", "); out.Missing != "" {
		out.Missing = "Not shown: " + out.Missing + " (" + f.excluded + ")."
	}
	a := f.axis(all, wide.ticks)
	out.Axis = a.label()
	for _, curve := range all {
		for _, p := range curve.Points {
			x := math.Round(10*a.of(p)) / 10
			out.Points = append(out.Points, pagePoint{curve.Arm, curve.Label, number(x), fmt.Sprintf("%.1f", p.Success),
				p.interval().String(), number(float64(p.Evaluated))})
		}
	}
	return out
}

// download is a file as an address, so that a page without scripts can offer it.
func download(kind, text string) template.URL {
	return template.URL("data:" + kind + ";base64," + base64.StdEncoding.EncodeToString([]byte(text)))
}

// duration formats seconds for people.
func duration(s float64) string {
	switch {
	case s >= 2*3600:
		return fmt.Sprintf("%.1f h", s/3600)
	case s >= 2*60:
		return fmt.Sprintf("%.1f min", s/60)
	}
	return fmt.Sprintf("%.0f s", s)
}

// verdict says in words which arm is best and how sure that is.
func (c Comparison) verdict() string {
	best, tied, n := "", true, 0
	var most Interval
	for _, arm := range c.Arms {
		i := c.Final(arm)
		if i.N == 0 {
			continue
		}
		if n++; n > 1 && i.Mean != most.Mean {
			tied = false
		}
		if best == "" || i.Mean > most.Mean {
			best, most = arm, i
		}
	}
	switch {
	case n == 0:
		return "There is no evaluation yet."
	case n > 1 && tied:
		return fmt.Sprintf("All arms end with a %s of %.1f%s.", c.metric(), most.Mean, c.unit())
	}
	text := fmt.Sprintf("%s ends with the highest %s: %.1f%s %s", best, c.metric(), most.Mean, c.unit(), runs(most.N))
	if most.Known() {
		text += fmt.Sprintf(", 95 %% interval %.1f to %.1f%s", most.Low, most.High, c.unit())
	}
	text += "."
	var others []string
	for _, arm := range c.Arms {
		d := c.Difference(best, arm)
		if arm == best || d.N == 0 {
			continue
		}
		other := fmt.Sprintf("%.1f points above %s", d.Mean, arm)
		switch {
		case d.Known() && d.Low <= 0:
			other += " " + d.String() + ", which may be chance"
		case d.Known():
			other += " " + d.String()
		}
		others = append(others, other)
	}
	if len(others) > 0 {
		text += " That is " + strings.Join(others, "; ") + "."
	}
	return text
}

func runs(n int) string {
	if n == 1 {
		return "in one run"
	}
	return fmt.Sprintf("on average over %d runs", n)
}
