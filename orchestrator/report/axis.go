package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// axis is the horizontal axis of a figure.
type axis struct {
	name string              // "training episodes"
	unit string              // of the numbers: "episodes", "minutes"; part of the label
	of   func(Point) float64 // from 0 up, in the unit
	max  float64
	step float64 // between ticks
}

// end returns where the axis ends so that it reaches v, and the distance of its ticks:
// 1, 2 or 5 times a power of ten, with at most n ticks.
func end(v float64, n int) (top, step float64) {
	if v <= 0 {
		return 1, 1
	}
	step = math.Pow(10, math.Floor(math.Log10(v/float64(n))))
	for _, factor := range []float64{1, 2, 5, 10} {
		if v/(factor*step) <= float64(n) {
			step *= factor
			break
		}
	}
	return v, step
}

// ticks are the numbers at the axis.
func (a axis) ticks() []float64 {
	var out []float64
	for i := 0; ; i++ {
		v := float64(i) * a.step
		if v > a.max*(1+1e-9) {
			return out
		}
		out = append(out, v)
	}
}

// episodes is the axis of training episodes over these curves.
func episodes(curves []Curve, ticks int) axis {
	a := axis{name: "Training episodes", unit: "episodes", of: func(p Point) float64 { return float64(p.Episodes) }}
	return a.fit(curves, ticks)
}

// steps is the axis of training steps over these curves.
func steps(curves []Curve, ticks int) axis {
	a := axis{name: "Training steps", unit: "steps", of: func(p Point) float64 { return float64(p.Step) }}
	return a.fit(curves, ticks)
}

// time is the axis of training time. Its unit is one in which the numbers are small.
func time(curves []Curve, ticks int) axis {
	longest := 0.0
	for _, c := range curves {
		longest = math.Max(longest, c.Last().Seconds)
	}
	unit, scale := "seconds", 1.0
	switch {
	case longest > 3*3600:
		unit, scale = "hours", 3600
	case longest > 3*60:
		unit, scale = "minutes", 60
	}
	a := axis{name: "Training time", unit: unit, of: func(p Point) float64 { return p.Seconds / scale }}
	return a.fit(curves, ticks)
}

// tokens is the axis of trained tokens. Its unit is one in which the numbers are small.
func tokens(curves []Curve, ticks int) axis {
	most := 0
	for _, c := range curves {
		most = max(most, c.Last().Tokens)
	}
	unit, scale := "tokens", 1.0
	switch {
	case most >= 3_000_000:
		unit, scale = "millions", 1e6
	case most >= 30_000:
		unit, scale = "thousands", 1e3
	}
	a := axis{name: "Trained tokens", unit: unit, of: func(p Point) float64 { return float64(p.Tokens) / scale }}
	return a.fit(curves, ticks)
}

// label is the name of the axis with its unit.
func (a axis) label() string {
	if strings.HasSuffix(a.name, a.unit) {
		return a.name
	}
	return a.name + " in " + a.unit
}

func (a axis) fit(curves []Curve, ticks int) axis {
	longest := 0.0
	for _, c := range curves {
		longest = math.Max(longest, a.of(c.Last()))
	}
	a.max, a.step = end(longest, ticks)
	return a
}

// tops are the ends of a percent axis.
var tops = []float64{5, 10, 25, 50, 100}

// top returns where a percent axis ends so that it reaches v.
func top(v float64) float64 {
	for _, t := range tops {
		if v <= t {
			return t
		}
	}
	return 100
}

// number formats a number of an axis or of a table: 12,500 or 0.5.
func number(v float64) string {
	v = math.Round(v*1000) / 1000
	text := strconv.FormatFloat(v, 'f', -1, 64)
	whole := fmt.Sprintf("%.0f", math.Trunc(v))
	rest := text[len(whole):]
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return whole + rest
}
