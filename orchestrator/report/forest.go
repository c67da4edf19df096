package report

import (
	"fmt"
	"math"
	"strings"
)

// forest draws the final success of each arm with its interval, one row per arm.
type forest struct {
	width, left, right float64
	row, font          float64 // height of a row
	above              bool    // names stand above their rows
}

var (
	wideForest   = forest{width: 900, left: 190, right: 700, row: 38, font: 13}
	narrowForest = forest{width: 360, left: 14, right: 346, row: 58, font: 12, above: true}
)

// draw returns the drawing. class is that of its element.
func (f forest) draw(c Comparison, class string) string {
	lowest, highest, rows := 0.0, 0.0, 0
	reach := func(v float64) { lowest, highest = math.Min(lowest, v), math.Max(highest, v) }
	for _, arm := range c.Arms {
		if i := c.Final(arm); i.N > 0 {
			rows++
			reach(i.Mean)
			if i.Known() {
				reach(i.Low)
				reach(i.High)
			}
		}
		for _, curve := range c.of(arm) {
			reach(curve.Last().Success)
		}
	}
	begin, limit := c.span(lowest, highest)
	x := func(v float64) float64 { return f.left + (f.right-f.left)*(v-begin)/(limit-begin) }
	base := f.row*float64(rows) + 8
	var b strings.Builder
	for i := range 5 {
		v := begin + (limit-begin)*float64(i)/4
		fmt.Fprintf(&b, `<path class="grid" d="M%.1f 4V%.1f"/>`, x(v), base)
		fmt.Fprintf(&b, `<text class="muted" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`, x(v), base+18, number(v))
	}
	fmt.Fprintf(&b, `<text class="ink" x="%.1f" y="%.1f" text-anchor="middle">%s</text>`,
		(f.left+f.right)/2, base+38, c.metricAxis())
	y := 4.0
	for i, arm := range c.Arms {
		if final := c.Final(arm); final.N > 0 {
			f.arm(&b, c, i, final, y, x)
			y += f.row
		}
	}
	return fmt.Sprintf(svgElement, class, f.width, base+46, escape(c.verdict()), f.font) + b.String() + "</svg>"
}

// arm draws one row.
func (f forest) arm(b *strings.Builder, c Comparison, i int, final Interval, y float64, x func(float64) float64) {
	arm := c.Arms[i]
	middle := y + f.row/2
	value := fmt.Sprintf("%.1f%s %s", final.Mean, c.unit(), final)
	text := func(at, y float64, anchor, text string) {
		fmt.Fprintf(b, `<text class="ink" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, at, y, anchor, escape(text))
	}
	if f.above {
		middle = y + f.row - 18
		text(f.left, y+f.font+4, "start", shorten(arm, 22))
		text(f.right, y+f.font+4, "end", value)
	} else {
		text(f.left-16, middle+f.font/3, "end", shorten(arm, 22))
		text(f.right+16, middle+f.font/3, "start", value)
	}
	if final.Known() {
		fmt.Fprintf(b, `<path class="whisker l%d" d="M%.1f %.1fv10m0-5H%.1fm0-5v10"/>`, series(i), x(final.Low), middle-5,
			x(final.High))
	}
	if runs := c.of(arm); len(runs) > 1 {
		for _, run := range runs {
			fmt.Fprintf(b, `<circle class="hollow l%d" cx="%.1f" cy="%.1f" r="3"><title>%s: %s%s</title></circle>`, series(i),
				x(run.Last().Success), middle, escape(run.Label), run.success(), c.unit())
		}
	}
	b.WriteString(mark(i, x(final.Mean), middle))
}
