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

func color(i int) string { return palette[i%len(palette)] }

const (
	legendHeight  = 44.0
	captionHeight = 24.0
)

const svgHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[2]g %[3]g" role="img" aria-label="%[1]s"
 font-size="13" font-family="system-ui,sans-serif">
<title>%[1]s</title>
<rect width="100%%" height="100%%" fill="#fff"/>
`

// SVG writes the learning curves as one picture that needs no other file, for
// example for a README.
func (c Comparison) SVG(w io.Writer) error {
	var b strings.Builder
	panel := captionHeight + height
	fmt.Fprintf(&b, svgHead, escape(c.Title), width, legendHeight+panel*float64(len(figures)))
	for i, arm := range c.Arms {
		x := left + 150*float64(i)
		fmt.Fprintf(&b, `<path d="M%g 22h24" stroke="%s" stroke-width="4"/>`, x, color(i))
		fmt.Fprintf(&b, "<text x=\"%g\" y=\"26\">%s</text>\n", x+32, escape(arm))
	}
	for i, fig := range figures {
		fmt.Fprintf(&b, "<g transform=\"translate(0 %g)\">\n", legendHeight+panel*float64(i))
		fmt.Fprintf(&b, "<text x=\"%g\" y=\"14\" font-weight=\"600\">%s</text>\n", left, fig.caption)
		fmt.Fprintf(&b, "<g transform=\"translate(0 %g)\">\n", captionHeight)
		c.plot(&b, fig)
		b.WriteString("</g></g>\n")
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
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

// figures are the plots of a comparison.
var figures = []figure{
	{
		caption: "Success without tips against training episodes", axis: "training episodes",
		x:        func(p Point) float64 { return float64(p.Episodes) },
		includes: func(curve Curve) bool { return !curve.TimeBudget },
	},
	{
		caption: "Success without tips against training time", axis: "seconds of training",
		x:        func(p Point) float64 { return p.Seconds },
		includes: func(Curve) bool { return true },
	},
}

// plot draws the axes and curves of a figure.
func (c Comparison) plot(b *strings.Builder, fig figure) {
	f := frame{x: fig.x}
	for _, curve := range c.Curves {
		if fig.includes(curve) {
			f.maxX = math.Max(f.maxX, fig.x(curve.Last()))
		}
	}
	f.maxX = math.Max(f.maxX, 1)
	f.axes(b, fig.axis)
	for i, arm := range c.Arms {
		curves := slices.DeleteFunc(c.of(arm), func(curve Curve) bool { return !fig.includes(curve) })
		for _, curve := range curves {
			f.line(b, curve.Points, color(i), 1, 0.35)
		}
		f.line(b, f.mean(curves), color(i), 3, 1)
	}
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
