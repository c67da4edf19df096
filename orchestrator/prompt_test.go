package orchestrator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
)

// edited is the template plain with a word before every state.
func edited(t *testing.T, word string) prompt.Template {
	t.Helper()
	text := strings.Replace(prompt.Default().Text(), `{{define "state"}}`, `{{define "state"}}`+word+` `, 1)
	f, err := prompt.Parse("edited", text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// promptOf is the recorded template of a step, and what its episodes were shown.
func promptOf(t *testing.T, w *world, step int64) (text string, states []string) {
	t.Helper()
	l, done := w.open()
	defer done()
	plan, err := l.Ledger.Plan(context.Background(), step)
	if err != nil {
		t.Fatal(err)
	}
	var p Plan
	if err := json.Unmarshal(plan, &p); err != nil {
		t.Fatal(err)
	}
	if text, err = l.Ledger.Prompt(context.Background(), p.Prompt); err != nil {
		t.Fatal(err)
	}
	episodes, err := l.Ledger.Episodes(context.Background(), step)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range episodes {
		trajectory, err := EpisodeOf(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, turn := range trajectory.Turns {
			for _, m := range turn.Prompt {
				for _, s := range m.Spans {
					if s.Kind == chat.StateSpan {
						states = append(states, s.Text)
					}
				}
			}
		}
	}
	return text, states
}

// The template is read before every step; one that became faulty is not used.
func TestPromptsAreReadBetweenSteps(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 3 }))
	l, done := w.open()
	reads := 0
	l.ReadPrompt = func() (prompt.Template, error) {
		reads++
		if reads == 3 {
			return prompt.Template{}, errors.New("half saved")
		}
		return edited(t, []string{"Now:", "Here:"}[reads-1]), nil
	}
	if _, err := l.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	done()
	var told []string
	for _, r := range w.reloads {
		told = append(told, fmt.Sprintf("%d %.4s %s", r.Step, r.SHA256, r.Problem))
	}
	here := edited(t, "Here:").SHA256()
	want := []string{fmt.Sprintf("2 %.4s ", here), fmt.Sprintf("3 %.4s half saved", here)}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("reloads: %s", diff)
	}
	for step, word := range []string{"Now:", "Here:", "Here:"} {
		text, states := promptOf(t, w, int64(step+1))
		if text != edited(t, word).Text() {
			t.Errorf("step %d: the ledger has another template", step+1)
		}
		for _, s := range states {
			if !strings.HasPrefix(s, word+" ") {
				t.Errorf("step %d was shown %q", step+1, s)
			}
		}
		if len(states) == 0 {
			t.Errorf("step %d was shown nothing", step+1)
		}
	}
}

// A step that was begun before the template changed is ended as it was begun.
func TestABegunStepKeepsItsPrompt(t *testing.T) {
	w := newWorld(t, small(func(c *config.Config) { c.Run.Steps = 2 }))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w.backend.BeforeSample = (&stopAfter{n: 20, cancel: cancel}).count
	interrupted := func(ctx context.Context, word string) error {
		l, done := w.open()
		defer done()
		l.ReadPrompt = func() (prompt.Template, error) { return edited(t, word), nil }
		_, err := l.Run(ctx)
		return err
	}
	if err := interrupted(ctx, "Now:"); err == nil {
		t.Fatal("the run was not interrupted")
	}
	if err := interrupted(context.Background(), "Here:"); err != nil {
		t.Fatal(err)
	}
	for step, word := range []string{"Now:", "Here:"} {
		_, states := promptOf(t, w, int64(step+1))
		for _, s := range states {
			if !strings.HasPrefix(s, word+" ") {
				t.Errorf("step %d was shown %q", step+1, s)
			}
		}
	}
}

// Only changes are reported, also those that were made while the run was stopped.
// A faulty file is reported once.
func TestPromptChangesAreEvents(t *testing.T) {
	w := newWorld(t, small())
	run := func(steps int, read func() (prompt.Template, error)) []PromptReload {
		t.Helper()
		w.reloads = nil
		l, done := w.open()
		defer done()
		l.Config.Run.Steps, l.ReadPrompt = steps, read
		if _, err := l.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		return w.reloads
	}
	as := func(word string) func() (prompt.Template, error) {
		return func() (prompt.Template, error) { return edited(t, word), nil }
	}
	if told := run(1, as("Now:")); len(told) != 0 {
		t.Errorf("the first template is no change: %v", told)
	}
	if told := run(2, as("Now:")); len(told) != 0 {
		t.Errorf("a run that continues has changed nothing: %v", told)
	}
	if told := run(3, as("Here:")); len(told) != 1 || told[0].Step != 3 || told[0].Problem != "" {
		t.Errorf("a change between two commands: %v", told)
	}
	faulty := func() (prompt.Template, error) { return prompt.Template{}, errors.New("half saved") }
	if told := run(5, faulty); len(told) == 0 || told[0].Problem != "half saved" {
		t.Errorf("a faulty template: %v", told)
	} else if n := len(slices.DeleteFunc(told, func(r PromptReload) bool { return r.Problem == "" })); n != 1 {
		t.Errorf("the fault was reported %d times", n)
	}
}
