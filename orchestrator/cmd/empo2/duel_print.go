package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/empo2/empo2/orchestrator/report"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// comparedSide is a side as ab --json prints it.
type comparedSide struct {
	Side     string `json:"side"`
	Setting  string `json:"setting"` // as the user wrote it
	Source   string `json:"source"`
	Version  int    `json:"version"`
	Template string `json:"template"`
	SHA256   string `json:"sha256"`
	Tips     string `json:"tips"`
}

// begin prints what is compared.
func (d *duel) begin(stored int) {
	sides := make([]comparedSide, len(d.sides))
	for i, s := range d.sides {
		sides[i] = comparedSide{s.name, s.text, s.source.String(), s.policy.Version, s.texts.Name(), s.texts.SHA256(), s.tips}
	}
	if d.JSON {
		d.json("ab", map[string]any{"sides": sides, "dir": d.ledger.Dir, "tasks": len(d.tasks),
			"pairs": len(d.tasks) * d.K, "measure": d.Measure, "until": d.Until, "stored_episodes": stored})
		return
	}
	for _, s := range sides {
		d.print("%s: %s", s.Side, tail(s.Setting, columns-3))
		d.print("   %s, %s", tail(s.Source, 46), s.Tips)
		d.print("   template %s (sha256 %.12s)", tail(s.Template, 40), s.SHA256)
	}
	d.print("%s, %d pairs at most, stored in %s", counted(len(d.tasks), "task"), len(d.tasks)*d.K, d.ledger.Dir)
	if stored > 0 {
		d.print("%s of an earlier command are kept", counted(stored, "episode"))
	}
}

// matchResult is a pair as ab --json prints it.
type matchResult struct {
	Task       string      `json:"task"`
	Number     int         `json:"number"` // within the task
	Seed       uint64      `json:"seed"`
	A          matchedSide `json:"a"`
	B          matchedSide `json:"b"`
	Difference float64     `json:"difference"` // of the measure, B − A
}

type matchedSide struct {
	Place   string  `json:"place"`
	Return  float64 `json:"return"`
	Score   float64 `json:"score"`
	Success bool    `json:"success"`
	Turns   int     `json:"turns"`
	Cut     int     `json:"cut"` // replies
	Show    string  `json:"show"`
}

func (d *duel) matched(m match, side int) matchedSide {
	t := m.played[side]
	return matchedSide{m.place(side).String(), t.EnvReturn, t.Score, t.Success, len(t.Turns), cutReplies(t),
		fmt.Sprintf("empo2 show %s %s --kind %s", safetext.Argument(d.ledger.Dir), m.place(side), kindPair)}
}

func cutReplies(t rollout.Trajectory) int {
	n := 0
	for _, turn := range t.Turns {
		if turn.Finish == sampler.FinishLength {
			n++
		}
	}
	return n
}

// sideResult is what came of a side.
type sideResult struct {
	Side    string  `json:"side"`
	Success float64 `json:"success"` // share
	Low     float64 `json:"success_low"`
	High    float64 `json:"success_high"`
	Return  float64 `json:"return"` // mean
	Score   float64 `json:"score"`  // mean
	Cut     float64 `json:"cut"`    // share of replies
	Empty   float64 `json:"empty"`  // share of replies
}

// taskDifference is what came of a task. The values are means of the measure.
type taskDifference struct {
	Task  string  `json:"task"`
	Pairs int     `json:"pairs"`
	A     float64 `json:"a"`
	B     float64 `json:"b"`
}

func (t taskDifference) difference() float64 { return t.B - t.A }

// comparison is the result as ab --json prints it.
type comparison struct {
	Sides      []sideResult      `json:"sides"`
	Difference report.Difference `json:"difference"` // of the measure, B − A
	// Better is A or B if the interval excludes 0, else empty.
	Better   string           `json:"better"`
	Improved int              `json:"improved"` // tasks in which B is better
	Worsened int              `json:"worsened"`
	Tasks    []taskDifference `json:"tasks"`  // those that differ most come first
	Failed   int              `json:"failed"` // pairs, which are not counted
	Dir      string           `json:"dir"`
}

// compared sums up the pairs.
func (d *duel) compared(o playedPairs) comparison {
	out := comparison{Difference: o.difference, Failed: o.failed, Dir: d.ledger.Dir}
	for i, s := range d.sides {
		out.Sides = append(out.Sides, sideResultOf(s.name, o.matches, i))
	}
	tasks := make([]taskDifference, len(d.tasks))
	for _, m := range o.matches {
		t := &tasks[m.task]
		t.Task = d.tasks[m.task].ID
		t.Pairs++
		t.A += d.value(m.played[0])
		t.B += d.value(m.played[1])
	}
	for _, t := range tasks {
		if t.Pairs == 0 {
			continue
		}
		t.A, t.B = t.A/float64(t.Pairs), t.B/float64(t.Pairs)
		switch {
		case t.B > t.A:
			out.Improved++
		case t.B < t.A:
			out.Worsened++
		}
		out.Tasks = append(out.Tasks, t)
	}
	slices.SortStableFunc(out.Tasks, func(a, b taskDifference) int {
		return cmp.Or(cmp.Compare(math.Abs(b.difference()), math.Abs(a.difference())),
			cmp.Compare(b.difference(), a.difference()))
	})
	if low, high := o.difference.Low, o.difference.High; low != nil && *low > 0 {
		out.Better = d.sides[1].name
	} else if high != nil && *high < 0 {
		out.Better = d.sides[0].name
	}
	return out
}

func sideResultOf(name string, matches []match, side int) sideResult {
	r := sideResult{Side: name}
	n, hits, replies, cut, empty := float64(len(matches)), 0, 0, 0, 0
	for _, m := range matches {
		t := m.played[side]
		if t.Success {
			hits++
		}
		r.Return += t.EnvReturn / n
		r.Score += t.Score / n
		replies += len(t.Turns)
		cut += cutReplies(t)
		for _, turn := range t.Turns {
			if turn.Action == "" {
				empty++
			}
		}
	}
	share := func(n int) float64 { return float64(n) / float64(max(1, replies)) }
	r.Success, r.Cut, r.Empty = float64(hits)/n, share(cut), share(empty)
	r.Low, r.High = report.Wilson95(hits, len(matches))
	return r
}

// report prints the result.
func (d *duel) report(o playedPairs) {
	c := d.compared(o)
	pairs := slices.Clone(o.matches)
	size := func(m match) float64 { return math.Abs(d.value(m.played[1]) - d.value(m.played[0])) }
	slices.SortStableFunc(pairs, func(a, b match) int { return cmp.Compare(size(b), size(a)) })
	if d.JSON {
		for _, m := range pairs {
			d.json("pair", matchResult{d.tasks[m.task].ID, m.number, m.played[0].Seed, d.matched(m, 0), d.matched(m, 1),
				d.value(m.played[1]) - d.value(m.played[0])})
		}
		d.json("result", c)
		return
	}
	d.printSides(c)
	d.printDifference(c)
	d.printTasks(c)
	d.printPairs(pairs)
}

func (d *duel) printSides(c comparison) {
	d.print("\n%4s %10s %18s %12s %12s %8s", "", "success %", "95 %", "mean return", "mean score", "cut %")
	for _, s := range c.Sides {
		d.print("%4s %10.1f %18s %12s %12s %8.1f", s.Side, 100*s.Success,
			fmt.Sprintf("%.1f to %.1f", 100*s.Low, 100*s.High), number(s.Return), number(s.Score), 100*s.Cut)
	}
	for i, s := range c.Sides {
		if s.Cut >= 0.1 {
			d.print("many replies of %s are CUT: raise rollout.max_tokens (%d)", s.Side, d.sides[i].config.Rollout.MaxTokens)
		}
		if s.Empty >= 0.1 {
			d.print("many replies of %s are EMPTY: a model that thinks may have written only its thought", s.Side)
		}
	}
}

func (d *duel) printDifference(c comparison) {
	diff, interval := c.Difference, "no interval: too few different values"
	if diff.Low != nil {
		interval = fmt.Sprintf("95 %% interval %+.4g to %+.4g", *diff.Low, *diff.High)
	}
	d.print("\nB − A, %s: %+.4g, %s", d.Measure, diff.Mean, interval)
	d.print("(%s, %s)", counted(diff.N, "pair"), diff.Method)
	if c.Better != "" {
		d.print("%s is better.", c.Better)
	} else {
		d.print("Undecided.")
	}
	if c.Failed > 0 {
		d.print("%s FAILED and are not counted. The same command plays them again.", counted(c.Failed, "pair"))
	}
}

// printTasks lists the tasks that differ most.
func (d *duel) printTasks(c comparison) {
	equal := len(c.Tasks) - c.Improved - c.Worsened
	d.print("\nB against A: %s improved, %d worsened, %d equal", counted(c.Improved, "task"), c.Worsened, equal)
	d.print("%10s %10s %10s %6s  %s", "A", "B", "B − A", "pairs", "task")
	for i, t := range c.Tasks {
		if d.Limit > 0 && i >= d.Limit {
			d.print("%d of %d tasks; --limit 0 lists all", i, len(c.Tasks))
			break
		}
		d.print("%10s %10s %10s %6d  %s", number(t.A), number(t.B), fmt.Sprintf("%+.4g", t.difference()), t.Pairs,
			tail(t.Task, 38))
	}
}

// printPairs lists the pairs that differ most, with the commands that show them.
func (d *duel) printPairs(pairs []match) {
	d.print("\nPairs, and how to see both conversations:")
	for i, m := range pairs {
		if d.Limit > 0 && i >= d.Limit {
			d.print("%d of %d pairs; --limit 0 lists all", i, len(pairs))
			break
		}
		a, b := d.matched(m, 0), d.matched(m, 1)
		d.print("A %s, B %s in %s", number(d.value(m.played[0])), number(d.value(m.played[1])),
			tail(d.tasks[m.task].ID, 50))
		d.print("  %s\n  %s", a.Show, b.Show)
	}
}
