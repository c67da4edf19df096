package report

import (
	"fmt"
	"io"
	"math"
	"strings"
)

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
	for _, fig := range figures {
		fmt.Fprintf(&b, figureHead, fig.caption, width, height)
		c.plot(&b, fig)
		b.WriteString("</svg></figure>\n")
	}
	c.summary(&b)
	b.WriteString("</html>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

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
