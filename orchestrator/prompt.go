package orchestrator

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/prompt"
)

// promptState is the prompt template in use.
type promptState struct {
	template prompt.Template
	recorded string // checksum of the template that was recorded last; empty: none by this process
	problem  string // why the newest text of the file is not in use; empty: it is
}

// PromptReload says whether a step took a prompt template that has changed.
type PromptReload struct {
	Step     int64  `json:"step"`
	Template string `json:"template"` // its name: that of a built-in one, or the path of a file
	SHA256   string `json:"sha256"`   // of the template that the step uses
	// Problem says why the changed file was not taken. Empty: it was taken.
	Problem string `json:"problem,omitempty"`
}

// The kinds of events of a prompt template. The first one of a run is no change.
const (
	promptEvent  = "prompt"
	refusedEvent = "prompt refused"
)

// promptReader reads and records the prompt template of a step.
type promptReader struct {
	ledger   *ledger.Ledger
	read     func() (prompt.Template, error) // nil: the template never changes
	observer Observer                        // nil: not told
	log      zerolog.Logger
}

// next reads the template for a new step and records it if it is new. If the
// template has become faulty during the run, the step uses the previous one.
func (r promptReader) next(ctx context.Context, step int64, before promptState) (promptState, error) {
	now := before
	if r.read != nil {
		template, err := r.read()
		if err != nil {
			return r.refuse(ctx, step, before, err)
		}
		now.template, now.problem = template, ""
	}
	return r.record(ctx, step, before, now)
}

// refuse keeps the previous template. It reports each problem once.
func (r promptReader) refuse(ctx context.Context, step int64, before promptState, problem error) (promptState, error) {
	now := before
	now.problem = problem.Error()
	if now.problem != before.problem {
		r.log.Info().Err(problem).Int64("step", step).Msg("the prompt template is faulty; the previous one is used")
		if err := r.ledger.Event(ctx, step, refusedEvent, now.problem); err != nil {
			return before, err
		}
		r.tell(PromptReload{Step: step, Template: before.template.Name(), SHA256: before.template.SHA256(),
			Problem: now.problem})
	}
	return r.record(ctx, step, before, now)
}

// record stores a template that the run has not used in its last step. A change is
// an event, also if it was made while the run was stopped.
func (r promptReader) record(ctx context.Context, step int64, before, now promptState) (promptState, error) {
	now.recorded = now.template.SHA256()
	if now.recorded == before.recorded {
		return now, nil
	}
	if err := r.ledger.SavePrompt(ctx, now.recorded, now.template.Text()); err != nil {
		return before, err
	}
	last, err := r.ledger.LastEvent(ctx, promptEvent)
	detail := now.template.Name() + " " + now.recorded
	if err != nil || last == detail {
		return now, err
	}
	if err := r.ledger.Event(ctx, step, promptEvent, detail); err != nil {
		return before, err
	}
	if last != "" {
		r.log.Info().Str("template", now.template.Name()).Int64("step", step).Msg("the prompt template has changed")
		r.tell(PromptReload{Step: step, Template: now.template.Name(), SHA256: now.recorded})
	}
	return now, nil
}

func (r promptReader) tell(reload PromptReload) {
	if r.observer != nil {
		r.observer.Prompt(reload)
	}
}

// of returns the template with which an interrupted step was begun, so that
// all episodes of a group see the same texts.
func (r promptReader) of(ctx context.Context, plan Plan, before promptState) (promptState, error) {
	if plan.Prompt == "" || plan.Prompt == before.template.SHA256() { // empty: written before prompts were recorded
		return before, nil
	}
	text, err := r.ledger.Prompt(ctx, plan.Prompt)
	if err != nil {
		return before, fmt.Errorf("prompt of step %d in run.db: %w", plan.Step, err)
	}
	before.template, err = prompt.Parse("of the interrupted step", text)
	return before, err
}
