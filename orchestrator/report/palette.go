package report

import (
	"fmt"
	"strings"
)

// scheme has the colours of a light or a dark page. Each colour of a series has a
// contrast of at least 3 against the paper, each colour of a text at least 4.5 (WCAG
// 2.2). Colour-blind people can tell the series apart, and each has a mark too.
type scheme struct {
	paper, card, ink, muted, grid string
	series                        []string
}

var light = scheme{
	paper: "#ffffff", card: "#f6f7f9", ink: "#16191d", muted: "#555d68", grid: "#d9dde3",
	series: []string{"#0b68b3", "#c2500a", "#00806a", "#a8407f", "#7a6400", "#5b4fc4"},
}

var dark = scheme{
	paper: "#14171c", card: "#1d2127", ink: "#eceff3", muted: "#a7b0bc", grid: "#343b45",
	series: []string{"#63b3f5", "#ff9a57", "#3fd0ae", "#f08fca", "#e3c34c", "#b0a5ff"},
}

// rules are the CSS rules that colour figures: l0 a line and f0 an area of the first
// series, paper, ink, muted and grid the rest.
func (s scheme) rules() string {
	var b strings.Builder
	for i, c := range s.series {
		fmt.Fprintf(&b, ".l%d{stroke:%s}.f%d{fill:%s}", i, c, i, c)
	}
	fmt.Fprintf(&b, ".paper{fill:%s}.ink{fill:%s}.muted{fill:%s}.grid{stroke:%s}.frame{stroke:%s}.hollow{fill:%s}",
		s.paper, s.ink, s.muted, s.grid, s.muted, s.paper)
	return b.String()
}

// figureStyle is the style of figures, in light and dark.
func figureStyle() string {
	return strings.ReplaceAll(strings.TrimSpace(shapes), "\n", "") + light.rules() +
		"@media (prefers-color-scheme:dark){" + dark.rules() + "}"
}

// shapes are the rules of figures that do not depend on the scheme.
const shapes = `
.run{fill:none;stroke-width:1;opacity:.4;stroke-linejoin:round}
.mean{fill:none;stroke-width:2.5;stroke-linejoin:round}
.band{stroke:none;opacity:.16}
.whisker{fill:none;stroke-width:2}
.mark{stroke-width:1.5}
.frame,.grid{fill:none;stroke-width:1}
`

// series returns the number of an arm's colour.
func series(i int) int { return i % len(light.series) }

// marks are the shapes of the arms' marks, as paths around 0,0.
var marks = []string{
	"M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", // circle
	"M-3.6-3.6h7.2v7.2h-7.2z",            // square
	"M0-4.8L4.6 3.4h-9.2z",               // triangle
	"M0-5L5 0 0 5-5 0z",                  // diamond
	"M0 4.8L4.6-3.4h-9.2z",               // triangle on its tip
	"M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
	"M-4.4-1.5L0-4.8 4.4-1.5 2.7 3.8h-5.4z", // pentagon
}

// mark draws the mark of an arm.
func mark(i int, x, y float64) string {
	return fmt.Sprintf(`<path class="mark l%d f%d" transform="translate(%.1f %.1f)" d="%s"/>`, series(i), series(i), x, y,
		marks[i%len(marks)])
}
