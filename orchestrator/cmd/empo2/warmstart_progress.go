package main

import (
	"fmt"
	"time"

	"github.com/empo2/empo2/orchestrator/warmstart"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// warmProgress prints the steps of a warm start: all of a short one, some of a
// long one.
type warmProgress struct {
	config  warmstart.Config
	out     *console
	begun   time.Time
	printed time.Time
	steps   int // that this process trained
	tokens  int // of these steps
	seconds float64
	first   int // the first step that this process trained
}

func newWarmProgress(c warmstart.Config, out *console) *warmProgress {
	return &warmProgress{config: c, out: out, begun: time.Now()}
}

// printEvery is the time between two lines of progress.
const printEvery = 5 * time.Second

// step shows the progress, and prints the step if it is worth a line.
func (p *warmProgress) step(s warmstart.Step) {
	p.phase(s)
	p.print(s)
}

// phase shows how far the training is.
func (p *warmProgress) phase(s warmstart.Step) {
	if p.first == 0 { // an earlier process trained the steps before
		p.first = s.Step
	}
	p.out.phase("", watchdog.Phase{Name: watchdog.PhaseWarmStart, Done: s.Step, Total: p.config.Steps, Unit: "steps",
		Begun: max(0, p.first-1), Since: p.begun})
}

func (p *warmProgress) print(s warmstart.Step) {
	if s.Step == 0 {
		p.out.print("before the first step: held-out loss %.3f", s.HeldOut)
		return
	}
	p.steps++
	p.tokens += s.Tokens
	p.seconds += s.Seconds
	if s.HeldOut == 0 && s.Step < p.config.Steps && time.Since(p.printed) < printEvery {
		return
	}
	p.printed = time.Now()
	line := fmt.Sprintf("step %*d/%d  loss %.3f", len(fmt.Sprint(p.config.Steps)), s.Step, p.config.Steps, s.Loss)
	if s.HeldOut > 0 {
		line += fmt.Sprintf("  held out %.3f", s.HeldOut)
	}
	left := time.Duration(float64(time.Since(p.begun)) / float64(p.steps) * float64(p.config.Steps-s.Step))
	p.out.print("%s  rate %.1e  %.0f tokens/s  %s left", line, s.LearningRate, float64(p.tokens)/p.seconds,
		left.Round(time.Second))
}
