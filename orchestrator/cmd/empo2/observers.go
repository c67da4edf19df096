package main

import (
	"errors"
	"time"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// progressObserver shows the progress of a run.
type progressObserver struct {
	out   *console
	label string // of the run; empty: there is only one
}

// Phase implements [orchestrator.Observer].
func (o progressObserver) Phase(p watchdog.Phase) { o.out.phase(o.label, p) }

// Step implements [orchestrator.Observer].
func (o progressObserver) Step(orchestrator.StepMetrics) {}

// Evaluation implements [orchestrator.Observer].
func (o progressObserver) Evaluation(orchestrator.Evaluation) {}

// Prompt implements [orchestrator.Observer].
func (o progressObserver) Prompt(orchestrator.PromptReload) {}

// startPhase is the phase in which a part of the run is started, for example the
// server.
func startPhase(c config.Config, part string) watchdog.Phase {
	return watchdog.Phase{Name: watchdog.PhaseStart, Of: int64(c.Run.Steps), Since: time.Now(), Detail: part}
}

// textObserver prints the steps and evaluations of a run, and shows its progress.
type textObserver struct {
	out     *console
	label   string // of the run; empty: there is only one
	verbose bool
}

// Phase implements [orchestrator.Observer].
func (o textObserver) Phase(p watchdog.Phase) { o.out.phase(o.label, p) }

// Step implements [orchestrator.Observer].
func (o textObserver) Step(m orchestrator.StepMetrics) { o.print(stepText(m, o.verbose)) }

// Evaluation implements [orchestrator.Observer].
func (o textObserver) Evaluation(e orchestrator.Evaluation) { o.print(evaluationText(e, o.verbose)) }

func (o textObserver) print(text lineText) {
	for _, line := range text.lines(o.label) {
		o.out.print("%s", line)
	}
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
	out   *console
	label string // of the run; empty: there is only one
	// wrap adds to the data of an event, for example the arm that the run belongs to.
	// Nil: nothing is added.
	wrap func(name string, data any) any
}

// Phase implements [orchestrator.Observer].
func (o jsonObserver) Phase(p watchdog.Phase) { o.out.phase(o.label, p) }

// Step implements [orchestrator.Observer].
func (o jsonObserver) Step(m orchestrator.StepMetrics) { o.out.json("step", o.wrapped("metrics", m)) }

// Evaluation implements [orchestrator.Observer].
func (o jsonObserver) Evaluation(e orchestrator.Evaluation) {
	o.out.json("evaluation", o.wrapped("evaluation", e))
}

func (o jsonObserver) wrapped(name string, data any) any {
	if o.wrap == nil {
		return data
	}
	return o.wrap(name, data)
}

// Prompt implements [orchestrator.Observer].
func (o jsonObserver) Prompt(r orchestrator.PromptReload) {
	o.out.json("prompt", o.wrapped("prompt", r))
}
