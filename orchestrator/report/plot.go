package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// layout is the size of a drawing. Each figure is drawn for a wide and for a narrow
// screen, so that its texts are readable on both.
type layout struct {
	width, height            float64
	left, right, above, base float64 // the plot within the drawing
	font                     float64
	ticks                    int
	labels                   bool // names of arms beside their curves
}

var (
	wide   = layout{width: 900, height: 372, left: 56, right: 742, above: 34, base: 318, font: 13, ticks: 8, labels: true}
	narrow = layout{width: 360, height: 268, left: 44, right: 348, above: 34, base: 218, font: 12, ticks: 4}
)

// figure is one plot of success.
type figure struct {
	id, caption string
	axis        func([]Curve, int) axis
	includes    func(Curve) bool // the curves to draw
	excluded    string           // why the others are not drawn
}

// stepsFigure is only part of sweeps, whose arms may have groups of other sizes.
const stepsFigure = "steps"

// figures are the plots of a comparison.
var figures = []figure{
	{
		id: stepsFigure, caption: "Success without tips against training steps", axis: steps,
		includes: func(c Curve) bool { return !c.TimeBudget }, excluded: "its budget is a time, or it has no evaluation",
	},
	{
		id: "episodes", caption: "Success without tips against training episodes", axis: episodes,
		includes: func(c Curve) bool { return !c.TimeBudget }, excluded: "its budget is a time, or it has no evaluation",
	},
	{
		id: "tokens", caption: "Success without tips against trained tokens", axis: tokens,
		includes: func(c Curve) bool { return c.Last().Tokens > 0 }, excluded: "it trained no token, or it has no evaluation",
	},
	{
		id: "time", caption: "Success without tips against training time", axis: time,
		includes: func(Curve) bool { return true }, excluded: "it has no evaluation",
	},
}

// figures are the plots that show something: without a trained token there is no curve
// against tokens.
func (c Comparison) figures() []figure {
	trained := slices.ContainsFunc(c.Curves, func(curve Curve) bool { return curve.Last().Tokens > 0 })
	shown := slices.DeleteFunc(slices.Clone(figures), func(f figure) bool {
		return f.id == "tokens" && !trained || f.id == stepsFigure && !c.Sweep
	})
	if c.Metric == MetricScore {
		for i := range shown {
			shown[i].caption = strings.Replace(shown[i].caption, "Success", "Mean score", 1)
		}
	}
	return shown
}

// drawn returns the arm's curves in a figure.
func (c Comparison) drawn(arm string, f figure) []Curve {
	return slices.DeleteFunc(c.of(arm), func(curve Curve) bool { return !f.includes(curve) || len(curve.Points) == 0 })
}

// plot is a figure that is drawn.
type plot struct {
	layout
	axis  axis
	of    Comparison
	low   float64 // end of the vertical axis
	top   float64
	arms  []string // with curves, by their number in the comparison
	runs  [][]Curve
	bands [][]band
	b     strings.Builder
}

// plot computes what a figure shows.
func (c Comparison) plot(f figure, l layout) *plot {
	p := &plot{layout: l, arms: c.Arms, of: c}
	var all []Curve
	for _, arm := range c.Arms {
		p.runs = append(p.runs, c.drawn(arm, f))
		all = append(all, p.runs[len(p.runs)-1]...)
	}
	p.axis = f.axis(all, l.ticks)
	lowest, highest := 0.0, 0.0
	reach := func(v float64) { lowest, highest = math.Min(lowest, v), math.Max(highest, v) }
	for _, runs := range p.runs {
		line := bands(runs, p.axis, c.spread)
		p.bands = append(p.bands, line)
		for _, at := range line {
			reach(at.Mean)
			if at.Known() {
				reach(at.Low)
				reach(at.High)
			}
		}
		for _, curve := range runs {
			for _, point := range curve.Points {
				reach(point.Success)
			}
		}
	}
	p.low, p.top = c.span(lowest, highest)
	return p
}

// draw writes the figure without the element around it.
func (p *plot) draw() string {
	p.frame()
	for i, line := range p.bands {
		p.area(i, line)
	}
	for i, runs := range p.runs {
		if len(runs) < 2 {
			continue
		}
		for _, curve := range runs {
			p.run(i, curve)
		}
	}
	for i, line := range p.bands {
		p.mean(i, line)
	}
	if p.labels {
		p.names()
	}
	return p.b.String()
}

func (p *plot) x(v float64) float64 { return p.left + (p.right-p.left)*v/p.axis.max }
func (p *plot) y(v float64) float64 { return p.base - (p.base-p.above)*(v-p.low)/(p.top-p.low) }

// text writes one text. anchor is start, middle or end.
func (p *plot) text(class, anchor string, x, y float64, text string) {
	fmt.Fprintf(&p.b, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, escape(text))
}

// frame draws the axes with their labels and units.
func (p *plot) frame() {
	p.text("ink", "start", p.left-(p.left-8), p.above-16, p.of.metricAxis())
	for i := range 5 {
		v := p.low + (p.top-p.low)*float64(i)/4
		y := p.y(v)
		fmt.Fprintf(&p.b, `<path class="grid" d="M%.1f %.1fH%.1f"/>`, p.left, y, p.right)
		p.text("muted", "end", p.left-8, y+p.font/3, number(v))
	}
	for _, v := range p.axis.ticks() {
		x := p.x(v)
		fmt.Fprintf(&p.b, `<path class="frame" d="M%.1f %.1fv5"/>`, x, p.base)
		p.text("muted", "middle", x, p.base+9+p.font, number(v))
	}
	fmt.Fprintf(&p.b, `<path class="frame" d="M%.1f %.1fH%.1f"/>`, p.left, p.base, p.right)
	p.text("ink", "middle", (p.left+p.right)/2, p.base+16+2.2*p.font, p.axis.label())
}

// area draws the band of an arm.
func (p *plot) area(i int, line []band) {
	line = slices.DeleteFunc(slices.Clone(line), func(at band) bool { return !at.Known() })
	if len(line) < 2 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="band f%d" d="M`, series(i))
	for _, at := range line {
		fmt.Fprintf(&p.b, "%.1f %.1f ", p.x(at.x), p.y(at.High))
	}
	for _, at := range slices.Backward(line) {
		fmt.Fprintf(&p.b, "L%.1f %.1f ", p.x(at.x), p.y(at.Low))
	}
	p.b.WriteString(`z"/>`)
}

// run draws one run of an arm.
func (p *plot) run(i int, curve Curve) {
	fmt.Fprintf(&p.b, `<path class="run l%d" d="M`, series(i))
	for _, point := range curve.Points {
		fmt.Fprintf(&p.b, "%.1f %.1f ", p.x(p.axis.of(point)), p.y(point.Success))
	}
	fmt.Fprintf(&p.b, `"><title>%s, %s: %.1f%s</title></path>`, escape(p.arms[i]), escape(curve.Label),
		curve.Last().Success, p.of.unit())
}

// mean draws the mean of an arm with marks.
func (p *plot) mean(i int, line []band) {
	if len(line) == 0 {
		return
	}
	fmt.Fprintf(&p.b, `<path class="mean l%d" d="M`, series(i))
	for _, at := range line {
		fmt.Fprintf(&p.b, "%.1f %.1f ", p.x(at.x), p.y(at.Mean))
	}
	p.b.WriteString(`"/>`)
	every := max(1, (len(line)-1)/6)
	for n := len(line) - 1; n >= 0; n -= every {
		at := line[n]
		fmt.Fprintf(&p.b, "<g>%s<title>%s: %.1f%s %s</title></g>", mark(i, p.x(at.x), p.y(at.Mean)), escape(p.arms[i]),
			at.Mean, p.of.unit(), at.Interval)
	}
}

// lineHeight is the smallest distance of two names in units of the font size.
const lineHeight = 1.35

// names writes the arms' names at the right, at the height of their last means.
func (p *plot) names() {
	type name struct {
		arm int
		end float64 // of the curve
		y   float64
	}
	var all []name
	for i, line := range p.bands {
		if len(line) > 0 {
			last := line[len(line)-1]
			all = append(all, name{i, p.x(last.x), p.y(last.Mean)})
		}
	}
	slices.SortFunc(all, func(a, b name) int {
		if a.y != b.y {
			return int(math.Copysign(1, a.y-b.y))
		}
		return a.arm - b.arm
	})
	gap := lineHeight * p.font
	for i := range all { // downwards, then upwards if they leave the drawing
		if i > 0 {
			all[i].y = math.Max(all[i].y, all[i-1].y+gap)
		}
	}
	limit := p.base
	for i := len(all) - 1; i >= 0; i-- {
		all[i].y = math.Min(all[i].y, limit)
		limit = all[i].y - gap
	}
	for _, n := range all {
		x := p.right + 12
		if n.end < p.right-1 { // the curve ends elsewhere
			p.b.WriteString(mark(n.arm, x+4, n.y))
			x += 16
		}
		p.text("ink", "start", x, n.y+p.font/3, shorten(p.arms[n.arm], 19))
	}
}

// shorten cuts a text to n characters.
func shorten(text string, n int) string {
	if runes := []rune(text); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return text
}

// summary says in words what a figure shows.
func (c Comparison) summary(f figure) string {
	var ends []string
	for _, arm := range c.Arms {
		if len(c.drawn(arm, f)) > 0 {
			ends = append(ends, fmt.Sprintf("%s %.1f%s", arm, c.Final(arm).Mean, c.unit()))
		}
	}
	if len(ends) == 0 {
		return f.caption + ". There is no evaluation yet."
	}
	return f.caption + ". At the end: " + strings.Join(ends, ", ") + "."
}

// svgElement opens a drawing inside a page. Assistive technology reads its label.
const svgElement = `<svg class="%s" viewBox="0 0 %g %g" role="img" aria-label="%s" font-size="%g">`

// inline returns a figure for a page.
func (c Comparison) inline(f figure, l layout, class string) string {
	return fmt.Sprintf(svgElement, class, l.width, l.height, escape(c.summary(f)), l.font) + c.plot(f, l).draw() + "</svg>"
}

const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[2]g %[3]g" role="img" aria-label="%[1]s"
 font-size="13" font-family="system-ui,sans-serif">
<title>%[1]s</title>
<style>%[4]s</style>
<rect class="paper" width="100%%" height="100%%"/>
`

// captionHeight is the space above each figure of a picture.
const captionHeight = 30.0

// SVG writes the learning curves as one picture that needs no other file, for
// example for a README. It is dark on a dark page.
func (c Comparison) SVG(w io.Writer) error {
	c = c.plotted()
	_, err := io.WriteString(w, c.picture(c.figures()))
	return err
}

// picture is some figures as one file.
func (c Comparison) picture(of []figure) string {
	var b strings.Builder
	panel := captionHeight + wide.height
	fmt.Fprintf(&b, svgHead, escape(c.Title), wide.width, panel*float64(len(of)), figureStyle())
	for i, f := range of {
		fmt.Fprintf(&b, "<g transform=\"translate(0 %g)\">\n", panel*float64(i))
		fmt.Fprintf(&b, "<text class=\"ink\" x=\"8\" y=\"24\" font-weight=\"600\" font-size=\"15\">%s</text>\n", f.caption)
		fmt.Fprintf(&b, "<g transform=\"translate(0 %g)\">%s</g></g>\n", captionHeight, c.plot(f, wide).draw())
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// escape makes text safe for HTML and SVG.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace
