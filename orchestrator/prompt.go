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
}

// promptReader reads and records the prompt template of a step.
type promptReader struct {
	ledger *ledger.Ledger
	read   func() (prompt.Template, error) // nil: the template never changes
	log    zerolog.Logger
}

// next reads the template for a new step and records it if it is new. If the
// template has become faulty during the run, the step uses the previous one.
func (r promptReader) next(ctx context.Context, step int64, before promptState) (promptState, error) {
	now := before
	if r.read != nil {
		template, err := r.read()
		if err != nil {
			r.log.Warn().Err(err).Int64("step", step).Msg("the prompt template is faulty; the previous one is used")
		} else {
			now.template = template
		}
	}
	now.recorded = now.template.SHA256()
	if now.recorded == before.recorded {
		return now, nil
	}
	if err := r.ledger.SavePrompt(ctx, now.recorded, now.template.Text()); err != nil {
		return before, err
	}
	return now, r.ledger.Event(ctx, step, "prompt", now.template.Name()+" "+now.recorded)
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
