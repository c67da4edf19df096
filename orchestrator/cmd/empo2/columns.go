package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/rivo/uniseg"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// columns is the width of what the reading commands print.
const columns = 80

// block prints a text of a run, for example an observation. Each of its lines begins
// with a bar. A line that is too long continues after a broken bar. So no text can
// pass for what the command itself prints.
func (c *console) block(text string) {
	for _, line := range blockLines(text) {
		c.print("%s", line)
	}
}

// blockLines are the lines that block prints. All but the last one stay the same if the
// text grows at its end.
func blockLines(text string) (lines []string) {
	const bar, broken = "  │ ", "  ┊ "
	for line := range strings.SplitSeq(text, "\n") {
		prefix := bar
		for rest := safetext.Line(line); ; prefix = broken {
			var part string
			part, rest = cutColumns(rest, columns-len([]rune(bar)))
			if part == "" {
				prefix = strings.TrimRight(prefix, " ")
			}
			lines = append(lines, prefix+part)
			if rest == "" {
				break
			}
		}
	}
	return lines
}

// cutColumns cuts a line of text where it fills a number of columns, after a space if
// one is in the second half. Characters that belong together stay together.
func cutColumns(line string, width int) (part, rest string) {
	used, end, space, state := 0, 0, 0, -1
	for tail := line; tail != ""; {
		var cluster string
		var n int
		cluster, tail, n, state = uniseg.FirstGraphemeClusterInString(tail, state)
		if used+n > width && end > 0 {
			if space > 0 {
				end = space
			}
			return line[:end], line[end:]
		}
		used, end = used+n, end+len(cluster)
		if cluster == " " && used > width/2 {
			space = end
		}
	}
	return line, ""
}

// head returns a text on one line of at most width columns. What is cut off its end
// is shown as a dot.
func head(text string, width int) string {
	text = safetext.Line(text)
	if uniseg.StringWidth(text) <= width {
		return text
	}
	end, used, state := 0, 0, -1
	for tail := text; tail != ""; {
		var cluster string
		var n int
		cluster, tail, n, state = uniseg.FirstGraphemeClusterInString(tail, state)
		if used += n; used > width-1 {
			break
		}
		end += len(cluster)
	}
	return text[:end] + "…"
}

// tail is head for names whose end matters, for example those of tasks and folders.
func tail(text string, width int) string {
	text = safetext.Line(text)
	if uniseg.StringWidth(text) <= width {
		return text
	}
	type cluster struct{ begin, width int }
	var all []cluster
	for begin, rest, state := 0, text, -1; rest != ""; {
		var c string
		var n int
		c, rest, n, state = uniseg.FirstGraphemeClusterInString(rest, state)
		all = append(all, cluster{begin, n})
		begin += len(c)
	}
	begin := len(text)
	for used, i := 1, len(all)-1; i >= 0 && used+all[i].width <= width; i-- {
		used, begin = used+all[i].width, all[i].begin
	}
	return "…" + text[begin:]
}

// pad fills a text with spaces to width columns.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-uniseg.StringWidth(text)))
}

// rule is a heading in a line.
func rule(heading string) string {
	return "── " + heading + " " + strings.Repeat("─", max(2, columns-4-uniseg.StringWidth(heading)))
}

// counted writes a number with a noun, for example "1 turn" or "2 turns".
func counted(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// number writes a value of unknown size in 9 columns at most.
func number(v float64) string {
	if text := fmt.Sprintf("%.4g", v); len(text) <= 9 {
		return text
	}
	return fmt.Sprintf("%.3g", v)
}

// age writes a duration in one unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
