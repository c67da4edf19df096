package orchestrator

import (
	"context"
	"fmt"

	"github.com/empo2/empo2/sampler/prompt"
)

// newPrompt reads the prompt template for a step that begins, records it and
// returns its checksum for the plan. A template that became faulty while the
// run goes on does not end it: the former one stays.
func (l *Loop) newPrompt(ctx context.Context, step int64) (string, error) {
	if l.Prompt != nil {
		format, err := l.Prompt()
		if err != nil {
			l.Log.Warn().Err(err).Int64("step", step).Msg("the former prompt template stays")
		} else {
			l.Driver.PromptTemplate = format
		}
	}
	f := l.Driver.PromptTemplate
	sum := f.SHA256()
	if sum == l.prompt {
		return sum, nil
	}
	if err := l.Ledger.SavePrompt(ctx, sum, f.Text()); err != nil {
		return "", err
	}
	if err := l.Ledger.Event(ctx, step, "prompt", f.Name()+" "+sum); err != nil {
		return "", err
	}
	l.prompt = sum
	return sum, nil
}

// oldPrompt goes back to the template that a step was begun with, so that the
// episodes of a group are shown the same texts.
func (l *Loop) oldPrompt(ctx context.Context, plan Plan) error {
	if plan.Prompt == "" || plan.Prompt == l.Driver.PromptTemplate.SHA256() {
		return nil // or the step is older than the record
	}
	text, err := l.Ledger.Prompt(ctx, plan.Prompt)
	if err != nil {
		return fmt.Errorf("prompt of step %d in run.db: %w", plan.Step, err)
	}
	l.Driver.PromptTemplate, err = prompt.Parse("of the step that was begun", text)
	return err
}
