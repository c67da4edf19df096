package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/rivo/uniseg"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

// legend explains the abbreviations of stepText.
const legend = `free/tips: mean return of the episodes sampled without/with tips
flat: groups of equal returns (no gradient) · kl: mean KL to the base model
v: version · -v prints more of each step`

// A lineText is what one event prints: parts of a line, then parts of further lines.
type lineText struct {
	parts   []string   // what belongs together stays on one line
	details [][]string // each begins a line of its own
}

// detailIndent is the indentation of what follows the first line of an event.
const detailIndent = "          "

// lines returns lines that fit the terminal. label is put before the first one.
func (t lineText) lines(label string) []string {
	first := t.parts
	if label != "" {
		first = append([]string{label}, first...)
	}
	out := wrapParts("", first)
	for _, d := range t.details {
		out = append(out, wrapParts(detailIndent, d)...)
	}
	return out
}

// wrapParts joins parts to lines of at most 80 columns. The lines after the first
// one are indented.
func wrapParts(indent string, parts []string) []string {
	var lines []string
	line := indent
	for i, p := range parts {
		gap := "  "
		if i == 0 {
			gap = ""
		}
		if i > 0 && uniseg.StringWidth(line+gap+p) > columns {
			lines, line, gap = append(lines, line), detailIndent, ""
		}
		line += gap + p
	}
	return append(lines, line)
}

// stepText describes one training step. verbose adds details.
func stepText(m orchestrator.StepMetrics, verbose bool) lineText {
	mean := func(r orchestrator.EpisodeStats) string {
		if r.N == 0 {
			return "    –"
		}
		return fiveColumns(r.Return)
	}
	parts := []string{fmt.Sprintf("step %3d", m.Step), "free " + mean(m.Free), "tips " + mean(m.Tips)}
	if m.Groups > 0 { // something is trained
		parts = append(parts, fmt.Sprintf("flat %d/%d", m.NoGradient, m.Groups), "kl "+fiveColumns(m.KLBase))
	}
	parts = append(parts, secondsText(m.Seconds.Total), fmt.Sprintf("v%d", m.Version))
	if m.Overlap != (orchestrator.Overlap{}) {
		parts = append(parts, overlapText(m))
	}
	text := lineText{parts: append(parts, stepNotes(m)...)}
	if verbose {
		text.details = stepDetails(m)
	}
	return text
}

// fiveColumns is a value in five columns, as long as it has at most three digits before
// the point.
func fiveColumns(v float64) string {
	if math.Abs(v) < 9.9995 {
		return fmt.Sprintf("%5.3f", v)
	}
	return fmt.Sprintf("%5.4g", v)
}

// secondsText is a time of a step or of a part of it.
func secondsText(s float64) string {
	if s < 100 {
		return fmt.Sprintf("%.1fs", s)
	}
	return watchdog.Span(time.Duration(s * float64(time.Second)))
}

// replyNotes are the shares of replies, tips and episodes with a shortcoming, without
// those that are 0.
func replyNotes(r orchestrator.Replies, stops map[rollout.StopReason]int, failed, episodes int) []string {
	var notes []string
	share := func(what string, n, all int) {
		if n > 0 {
			notes = append(notes, what+" "+percent(n, all))
		}
	}
	share("cut", r.Cut, r.N)
	share("no action", r.NoAction, r.N)
	share("empty", r.Empty, r.N)
	share("tips cut", r.CutTips, r.Tips)
	share("no tip", r.NoTips, r.Tips)
	share("context full", stops[rollout.StopContextFull], episodes)
	share("FAILED", failed, episodes)
	return notes
}

// overlapText says how old the turns are, in updates, and how long each side was idle.
func overlapText(m orchestrator.StepMetrics) string {
	s := m.Overlap.Staleness
	return fmt.Sprintf("stale %.1f max %d", s.Mean, s.Max) + "  " + idleText(m)
}

// idleText is the share of the step in which server and trainer had nothing to do.
func idleText(m orchestrator.StepMetrics) string {
	server, trainer, _ := m.Idle()
	return fmt.Sprintf("idle server %.0f%% trainer %.0f%%", 100*server, 100*trainer)
}

// stepNotes says what went wrong in a step, without what did not happen.
func stepNotes(m orchestrator.StepMetrics) []string {
	notes := replyNotes(m.Replies, m.Stops, m.Failed, m.Free.N+m.Tips.N+m.Failed+m.Cancelled)
	if m.Corrected && m.Mismatch.Tokens > 0 {
		notes = append(notes, "corrected")
	}
	if m.Cancelled > 0 {
		notes = append(notes, "cancelled "+counted(m.Cancelled, "episode"))
	}
	if n := m.Overlap.Staleness.Dropped; n > 0 {
		notes = append(notes, counted(n, "group")+" too old")
	}
	if m.Late > 0 {
		notes = append(notes, counted(m.Late, "request")+" late")
	}
	if m.LeftOut > 0 {
		notes = append(notes, counted(m.LeftOut, "row")+" left out")
	}
	if len(m.Diverging) > 0 {
		notes = append(notes, "may DIVERGE")
	}
	if n := m.Trainer.OutOfMemory; n > 0 {
		notes = append(notes, fmt.Sprintf("trainer out of memory %d×", n))
	}
	if m.Restarts > 0 {
		notes = append(notes, fmt.Sprintf("trainer restarted %d×", m.Restarts))
	}
	return notes
}

// percent is a share that is not 0, without decimals.
func percent(n, all int) string {
	p := 100 * float64(n) / float64(max(1, all))
	if p < 1 {
		return "<1%"
	}
	return fmt.Sprintf("%.0f%%", p)
}

// methodParts say what options of the algorithm did in a step.
func methodParts(m orchestrator.StepMetrics) (parts []string) {
	if m.MemoryProbability > 0 { // it is annealed
		parts = append(parts, fmt.Sprintf("p_mem %.2f", m.MemoryProbability))
	}
	if m.Batches > 0 {
		parts = append(parts, fmt.Sprintf("%d batches of groups", m.Batches))
	}
	if m.Overlong < 0 {
		parts = append(parts, fmt.Sprintf("overlong %.3g", m.Overlong))
	}
	return parts
}

// stepDetails are the further lines of a step.
func stepDetails(m orchestrator.StepMetrics) [][]string {
	var lines [][]string
	parts := []string{modes(m)}
	if m.Groups > 0 {
		mismatch := "–" // no log-probs to compare
		if m.Mismatch.Tokens > 0 {
			mismatch = fmt.Sprintf("%.0e/%.0e", m.Mismatch.Mean, m.Mismatch.Max)
		}
		parts = append(parts, fmt.Sprintf("mask %.1f%%", 100*m.MaskShare), fmt.Sprintf("ratio %.2f", m.Ratio),
			"mismatch "+mismatch)
	}
	parts = append(parts, methodParts(m)...)
	s := m.Seconds
	lines = append(lines, parts, []string{"sample " + secondsText(s.Sample), "train " + secondsText(s.Train),
		"publish " + secondsText(s.Publish), fmt.Sprintf("turns %.1f", turns(m)), fmt.Sprintf("new tips %d", m.NewTips)})
	if m.Overlap == (orchestrator.Overlap{}) { // else the first line has it
		lines = append(lines, []string{idleText(m)})
	}
	if m.Trainer.RowTokens > 0 {
		lines = append(lines, usageParts(m.Trainer))
	}
	return lines
}

// turns is the mean number of turns of an episode.
func turns(m orchestrator.StepMetrics) float64 {
	n := float64(max(1, m.Free.N+m.Tips.N))
	return (float64(m.Free.N)*m.Free.Turns + float64(m.Tips.N)*m.Tips.Turns) / n
}

// usageParts describes what the trainer needed in a step.
func usageParts(u orchestrator.TrainerUsage) []string {
	parts := []string{fmt.Sprintf("trainer: %d tokens", u.RowTokens), fmt.Sprintf("%.0f tokens/s", u.TokensPerSecond),
		fmt.Sprintf("peak %.2f GB", float64(u.PeakMemory)/gigabyte), fmt.Sprintf("padding %.0f %%", 100*u.PaddingShare),
		fmt.Sprintf("%d micro-batches of up to %d tokens", u.MicroBatches, u.MicroBatchTokens),
		fmt.Sprintf("%d checkpointed", u.Checkpointed)}
	if u.MFU > 0 {
		parts = append(parts, fmt.Sprintf("MFU %.0f %%", 100*u.MFU))
	}
	return parts
}

// modes counts the episodes of each mode, for example "on 32 +tips 8 off 24".
func modes(m orchestrator.StepMetrics) string {
	text := ""
	if n := m.Modes[orchestrator.OnPolicy]; n > 0 {
		text = fmt.Sprintf("on %d", n)
	}
	if n := m.Modes[orchestrator.OnPolicyTips]; n > 0 {
		text += fmt.Sprintf(" +tips %d", n)
	}
	if n := m.Modes[orchestrator.OffPolicy]; n > 0 {
		text += fmt.Sprintf(" off %d", n)
	}
	return strings.TrimSpace(text)
}

// evaluationText describes one evaluation. verbose adds what it cost and when.
func evaluationText(e orchestrator.Evaluation, verbose bool) lineText {
	kind, of := "eval", ""
	if e.Tips {
		of += ", with tips"
	}
	if e.Kind == "test" {
		kind, of = "test", of+", held-out tasks"
	}
	text := lineText{parts: []string{fmt.Sprintf("%s %3d", kind, e.Step), fmt.Sprintf("success %.1f %%", 100*e.Success),
		fmt.Sprintf("score %.1f ± %.1f", e.Score, e.StdErr), counted(e.Episodes, "episode") + of}}
	text.parts = append(text.parts, replyNotes(e.Replies, e.Stops, e.Failed, e.Episodes+e.Failed)...)
	if verbose {
		text.details = [][]string{{fmt.Sprintf("T = %g", e.Temperature), secondsText(e.Seconds),
			"after " + counted(e.TrainEpisodes, "training episode"), secondsText(e.TrainSeconds) + " of training"}}
	}
	return text
}
