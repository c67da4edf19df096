package rollout_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// textBackend takes messages and returns text, as a server without token ids does.
type textBackend struct {
	*samplertest.Scripted
	template *chat.Template
	requests []sampler.Request
}

func (w *textBackend) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	w.requests = append(w.requests, r)
	var err error
	if r.Prompt, err = w.template.Extend(ctx, nil, r.Messages...); err != nil {
		return sampler.Completion{}, err
	}
	c, err := w.Scripted.Sample(ctx, p, r)
	c.IDs, c.Logprobs = nil, nil
	return c, err
}

// newTextDriver returns a driver without a chat template.
func newTextDriver(t *testing.T, f envs.Family, script samplertest.Script) (*rollout.Driver, *textBackend) {
	t.Helper()
	d, b := newDriver(t, f, script)
	w := &textBackend{Scripted: b, template: d.ChatTemplate}
	d.Backend, d.ChatTemplate = w, nil
	return d, w
}

// lines formats messages as "role: text".
func lines(messages []chat.Message) (out []string) {
	for _, m := range messages {
		out = append(out, m.Role+": "+m.Text())
	}
	return out
}

func TestEpisodesWithoutAChatTemplateUseMessages(t *testing.T) {
	d, w := newTextDriver(t, corridors(2), actsAndWritesTip("At iron pull jade."))
	s := spec()
	s.Recall = recalls(prompt.Tip{ID: 4, Text: "Hurry."})
	s.MaxPrompt = 1 // has no effect without token ids
	got := d.Run(t.Context(), s)
	if got.Stop != rollout.StopTerminated || got.EnvReturn != 2 || len(got.Turns) != 2 ||
		got.Turns[1].Action != "pull jade" || len(got.Turns[0].Tips) != 1 {
		t.Fatalf("stop %s (%s), return %v, %d turns", got.Stop, got.Err, got.EnvReturn, len(got.Turns))
	}
	if len(got.RowsWithTips) != 0 || len(got.RowsWithoutTips) != 0 || got.Splits != 0 || got.Turns[0].IDs != nil ||
		got.Turns[0].PromptLen != 0 {
		t.Errorf("%d rows of an episode without ids", len(got.RowsWithTips))
	}
	if err := d.Reflect(t.Context(), &got, s.Policy, rollout.ReflectSpec{MaxTokens: 60, MaxPrompt: 1}); err != nil {
		t.Fatal(err)
	}
	if got.Tip != "At iron pull jade." || got.TipIDs == nil || len(got.TipIDs) != 0 {
		t.Errorf("tip %q, ids %v, want empty and not nil", got.Tip, got.TipIDs)
	}
	door := []string{"Levers: jade, bone. Door 1 of 2 is iron.", "It opens.\nLevers: jade, bone. Door 2 of 2 is iron."}
	want := [][]string{
		{"system: You walk a corridor.", "user: Tips:\n- Hurry.\n" + door[0]},
		{"system: You walk a corridor.", "user: Tips:\n- Hurry.\n" + door[0], "assistant: pull jade", "user: " + door[1]},
		{"system: You walk a corridor.", "user: " + door[0], "assistant: pull jade", "user: " + door[1],
			"assistant: pull jade", "user: You are out.\nWrite one tip."},
	}
	for i, r := range w.requests {
		if diff := cmp.Diff(want[i], lines(r.Messages)); diff != "" || r.Prompt != nil {
			t.Errorf("request %d: %s", i, diff)
		}
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var back rollout.Trajectory
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, back); diff != "" {
		t.Error(diff)
	}
}

func TestMessagesShowOnlyTheLatestTips(t *testing.T) {
	d, w := newTextDriver(t, corridors(3), samplertest.Say("<think>hm</think>pull jade"))
	d.Thinking = chat.ThinkingStrip
	s := spec()
	s.MaxTokens, s.Keep, s.Recall = 60, rollout.KeepLatest, recalls(prompt.Tip{ID: 4, Text: "Hurry."})
	if got := d.Run(t.Context(), s); got.Failed() {
		t.Fatal(got.Err)
	}
	text := strings.Join(lines(w.requests[2].Messages), "\n")
	if strings.Count(text, "Hurry.") != 1 || !strings.Contains(text, "Tips:\n- Hurry.\nLevers: jade, bone. Door 3") ||
		strings.Contains(text, "hm") {
		t.Errorf("the messages are %q", text)
	}
}

// With a chat template, requests have ids and the same conversation as messages, and completions must have ids.
func TestIDsAreRequiredWithAChatTemplate(t *testing.T) {
	d, b := newDriver(t, corridors(2), samplertest.Say("pull jade"))
	if got := d.Run(t.Context(), spec()); got.Failed() {
		t.Fatal(got.Err)
	}
	for i, c := range b.Calls() {
		rendered, err := d.ChatTemplate.Extend(t.Context(), nil, c.Request.Messages...)
		if diff := cmp.Diff(c.Request.Prompt, rendered); err != nil || diff != "" {
			t.Errorf("call %d: the messages do not render to the prompt: %v %s", i, err, diff)
		}
	}
	b.AfterSample = func(c *sampler.Completion) { c.IDs, c.Logprobs = nil, nil }
	if got := d.Run(t.Context(), spec()); !got.Failed() || !strings.Contains(got.Err, "no token") {
		t.Errorf("stop %s, err %q", got.Stop, got.Err)
	}
	textDriver, _ := newTextDriver(t, corridors(2), samplertest.Say("pull jade"))
	played := textDriver.Run(t.Context(), spec())
	b.AfterSample = nil
	err := d.Reflect(t.Context(), &played, spec().Policy, rollout.ReflectSpec{MaxTokens: 9})
	if err == nil || !strings.Contains(err.Error(), "without a chat template") {
		t.Errorf("a reflection with ids on an episode without ids: %v", err)
	}
}

func TestFullContextOfATextServerEndsTheEpisode(t *testing.T) {
	d, w := newTextDriver(t, corridors(9), samplertest.Say("pull jade"))
	w.BeforeSample = func(context.Context, sampler.Policy, sampler.Request) error {
		if len(w.requests) == 3 {
			return errors.Join(errors.New("too long"), sampler.ErrContextFull)
		}
		return nil
	}
	if got := d.Run(t.Context(), spec()); got.Stop != rollout.StopContextFull || len(got.Turns) != 2 {
		t.Errorf("stop %s (%s), %d turns", got.Stop, got.Err, len(got.Turns))
	}
}
