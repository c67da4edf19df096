package report

import "math"

// band is the mean of an arm at a place of the axis, with its interval.
type band struct {
	x float64
	Interval
}

// gridPoints divide the common part of several runs.
const gridPoints = 60

// bands returns the mean of an arm's runs along the axis with its interval, which spread
// computes: at each evaluation of a single run, else on a grid, on which the runs are interpolated. It ends where the
// shortest of them ends.
func bands(curves []Curve, a axis, spread func([]Point) Interval) []band {
	var drawn []Curve
	for _, c := range curves {
		if len(c.Points) > 0 {
			drawn = append(drawn, c)
		}
	}
	switch len(drawn) {
	case 0:
		return nil
	case 1:
		var out []band
		for _, p := range drawn[0].Points {
			out = append(out, band{a.of(p), spread([]Point{p})})
		}
		return out
	}
	last := math.Inf(1)
	for _, c := range drawn {
		last = math.Min(last, a.of(c.Last()))
	}
	out := make([]band, gridPoints+1)
	points := make([]Point, len(drawn))
	for i := range out {
		x := last * float64(i) / gridPoints
		for j, c := range drawn {
			points[j] = interpolate(c.Points, a, x)
		}
		out[i] = band{x, spread(points)}
	}
	return out
}

// interpolate is linear between points and constant outside them. It is as certain as the
// less certain of its two points.
func interpolate(points []Point, a axis, x float64) Point {
	for i, p := range points {
		if a.of(p) < x {
			continue
		}
		if i == 0 || a.of(p) == a.of(points[i-1]) {
			return p
		}
		q := points[i-1]
		share := (x - a.of(q)) / (a.of(p) - a.of(q))
		return Point{Success: q.Success + (p.Success-q.Success)*share, Evaluated: min(p.Evaluated, q.Evaluated)}
	}
	return points[len(points)-1]
}
