package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// palette has a colour for each arm, in the order of display. Colour-blind
// people can tell them apart.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

const style = `body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:#1b1b1b;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}figure{margin:1rem 0}svg{width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}
.key{display:inline-block;width:1.2em;height:.25em;vertical-align:middle;margin-right:.4em}`

const pageHead = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>%s</title>
<style>%s</style>
`

const summaryHead = `<h2>Final evaluation, without tips</h2>
<table><tr><th>arm</th><th>runs</th><th>mean success %</th><th>95 % interval</th><th>per run</th></tr>
`

const figureHead = `<figure><figcaption>%[1]s</figcaption>
<svg viewBox="0 0 %[2]g %[3]g" role="img" aria-label="%[1]s" font-size="13" font-family="system-ui,sans-serif">
`

// HTML writes the whole comparison as one page that needs no other file.
func (c Comparison) HTML(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, pageHead, escape(c.Title), style)
	fmt.Fprintf(&b, "<h1>%s</h1>\n<p>%s</p>\n<p>", escape(c.Title), escape(c.Note))
	for i, arm := range c.Arms {
		fmt.Fprintf(&b, `<span class="key" style="background:%s"></span>%s &emsp; `, color(i), escape(arm))
	}
	b.WriteString("</p>\n<p>Thin lines are runs, thick lines their means.</p>\n")
	c.figure(&b, figure{
		caption: "Success without tips against training episodes", axis: "training episodes",
		x:        func(p Point) float64 { return float64(p.Episodes) },
		includes: func(curve Curve) bool { return !curve.TimeBudget },
	})
	c.figure(&b, figure{
		caption: "Success without tips against training time", axis: "seconds of training",
		x:        func(p Point) float64 { return p.Seconds },
		includes: func(Curve) bool { return true },
	})
	c.summary(&b)
	b.WriteString("</html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func color(i int) string { return palette[i%len(palette)] }

func (c Comparison) summary(b *strings.Builder) {
	b.WriteString(summaryHead)
	for _, arm := range c.Arms {
		i := c.Final(arm)
		var each []string
		for _, curve := range c.of(arm) {
			each = append(each, fmt.Sprintf("%s: %.1f", escape(curve.Label), curve.Last().Success))
		}
		interval := "–"
		if !math.IsNaN(i.Low) {
			interval = fmt.Sprintf("%.1f to %.1f", i.Low, i.High)
		}
		fmt.Fprintf(b, "<tr><td>%s</td><td>%d</td><td>%.1f</td><td>%s</td><td>%s</td></tr>\n",
			escape(arm), i.N, i.Mean, interval, strings.Join(each, "<br>"))
	}
	b.WriteString("</table>\n")
}

// A figure describes one plot of success.
type figure struct {
	caption, axis string              // axis labels x
	x             func(Point) float64 // from 0 up
	includes      func(Curve) bool    // the curves to draw
}

// frame maps data to the drawing: x from 0 to maxX, y in percent.
type frame struct {
	maxX float64
	x    func(Point) float64
}

const (
	width, height          = 900.0, 360.0
	left, right, top, base = 56.0, 880.0, 14.0, 310.0
)

func (f frame) at(p Point) (x, y float64) {
	return left + (right-left)*f.x(p)/f.maxX, base - (base-top)*p.Success/100
}

// figure draws a figure.
func (c Comparison) figure(b *strings.Builder, fig figure) {
	f := frame{x: fig.x}
	for _, curve := range c.Curves {
		if fig.includes(curve) {
			f.maxX = math.Max(f.maxX, fig.x(curve.Last()))
		}
	}
	f.maxX = math.Max(f.maxX, 1)
	fmt.Fprintf(b, figureHead, fig.caption, width, height)
	f.axes(b, fig.axis)
	for i, arm := range c.Arms {
		curves := slices.DeleteFunc(c.of(arm), func(curve Curve) bool { return !fig.includes(curve) })
		for _, curve := range curves {
			f.line(b, curve.Points, color(i), 1, 0.35)
		}
		f.line(b, f.mean(curves), color(i), 3, 1)
	}
	b.WriteString("</svg></figure>\n")
}

func (f frame) axes(b *strings.Builder, axis string) {
	for y := 0.0; y <= 100; y += 25 {
		_, py := f.at(Point{Success: y})
		fmt.Fprintf(b, `<path d="M%g %gH%g" stroke="#ddd"/>`, left, py, right)
		fmt.Fprintf(b, "<text x=\"%g\" y=\"%g\" text-anchor=\"end\">%g %%</text>\n", left-8, py+4, y)
	}
	for i := 0.0; i <= 4; i++ {
		px := left + (right-left)*i/4
		fmt.Fprintf(b, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%.0f</text>\n", px, base+20,
			f.maxX*i/4)
	}
	fmt.Fprintf(b, "<text x=\"%g\" y=\"%g\" text-anchor=\"middle\">%s</text>\n", (left+right)/2, base+42, axis)
}

func (f frame) line(b *strings.Builder, points []Point, stroke string, w, opacity float64) {
	if len(points) == 0 {
		return
	}
	b.WriteString(`<polyline fill="none" points="`)
	for _, p := range points {
		x, y := f.at(p)
		fmt.Fprintf(b, "%.1f,%.1f ", x, y)
	}
	fmt.Fprintf(b, "\" stroke=\"%s\" stroke-width=\"%g\" opacity=\"%g\" stroke-linejoin=\"round\"/>\n",
		stroke, w, opacity)
}

// mean interpolates the curves on a common grid that ends where the shortest
// of them ends.
func (f frame) mean(curves []Curve) []Point {
	end := math.Inf(1)
	for _, c := range curves {
		end = math.Min(end, f.x(c.Last()))
	}
	if len(curves) < 2 || math.IsInf(end, 1) {
		if len(curves) == 1 {
			return curves[0].Points
		}
		return nil
	}
	const n = 60
	out := make([]Point, n+1)
	for i := range out {
		x := end * float64(i) / n
		sum := 0.0
		for _, c := range curves {
			sum += f.interpolate(c.Points, x)
		}
		// f.x reads either Episodes or Seconds.
		out[i] = Point{Episodes: int(math.Round(x)), Seconds: x, Success: sum / float64(len(curves))}
	}
	return out
}

// interpolate is linear between points and constant outside them.
func (f frame) interpolate(points []Point, x float64) float64 {
	for i, p := range points {
		if f.x(p) < x {
			continue
		}
		if i == 0 || f.x(p) == f.x(points[i-1]) {
			return p.Success
		}
		q := points[i-1]
		return q.Success + (p.Success-q.Success)*(x-f.x(q))/(f.x(p)-f.x(q))
	}
	return points[len(points)-1].Success
}
