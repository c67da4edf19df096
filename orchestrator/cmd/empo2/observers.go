package main

import (
	"errors"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// textObserver prints the steps and evaluations of a run.
type textObserver struct {
	out     *console
	label   string // of the run; empty: there is only one
	verbose bool
}

// Phase implements [orchestrator.Observer].
func (o textObserver) Phase(watchdog.Phase) {}

// Step implements [orchestrator.Observer].
func (o textObserver) Step(m orchestrator.StepMetrics) {
	o.print(stepLine(m))
	if o.verbose && m.Trainer.RowTokens > 0 {
		o.print(usageLine(m.Trainer))
	}
}

// Evaluation implements [orchestrator.Observer].
func (o textObserver) Evaluation(e orchestrator.Evaluation) { o.print(evaluationLine(e)) }

func (o textObserver) print(line string) {
	if o.label != "" {
		o.out.print("%-18s %s", o.label, line)
		return
	}
	o.out.print("%s", line)
}

// Prompt implements [orchestrator.Observer].
func (o textObserver) Prompt(r orchestrator.PromptReload) {
	if r.Problem == "" {
		o.out.note("step %d takes the changed prompt template %s (sha256 %.12s)", r.Step, r.Template, r.SHA256)
		return
	}
	msg, hint := splitHint(errors.New(r.Problem))
	o.out.note("step %d keeps the previous prompt template (sha256 %.12s): %s", r.Step, r.SHA256, msg)
	if hint != "" {
		o.out.note("  hint: %s", hint)
	}
}

// jsonObserver prints what happens in a run as JSON lines.
type jsonObserver struct {
	out *console
	// wrap adds to the data of an event, for example the arm that the run belongs to.
	wrap func(name string, data any) any
}

// Phase implements [orchestrator.Observer].
func (o jsonObserver) Phase(watchdog.Phase) {}

// Step implements [orchestrator.Observer].
func (o jsonObserver) Step(m orchestrator.StepMetrics) { o.out.json("step", o.wrap("metrics", m)) }

// Evaluation implements [orchestrator.Observer].
func (o jsonObserver) Evaluation(e orchestrator.Evaluation) {
	o.out.json("evaluation", o.wrap("evaluation", e))
}

// Prompt implements [orchestrator.Observer].
func (o jsonObserver) Prompt(r orchestrator.PromptReload) { o.out.json("prompt", o.wrap("prompt", r)) }
