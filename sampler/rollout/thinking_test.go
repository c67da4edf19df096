package rollout_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// recordsActions is a family with one corridor that records the actions.
func recordsActions(actions *[]string, n int) family {
	w := &corridor{n: n}
	w.step = func(_ context.Context, i int, action string) (envs.Step, error) {
		*actions = append(*actions, action)
		return envs.Step{Observation: envs.Observation{State: w.state()}, Terminated: i == n-1}, nil
	}
	return single(w)
}

func TestActionIsTheReplyAfterTheThought(t *testing.T) {
	f := func(reply, action, text string) {
		t.Helper()
		for _, thinking := range []chat.Thinking{"", chat.ThinkingKeep, chat.ThinkingStrip} {
			var actions []string
			d, _ := newDriver(t, recordsActions(&actions, 1), samplertest.Say(reply), "<think>", "</think>")
			d.Thinking = thinking
			s := spec()
			s.MaxTokens = 60
			got := d.Run(t.Context(), s)
			if got.Failed() || !slices.Equal(actions, []string{action}) || got.Turns[0].Action != action ||
				got.Turns[0].Text != text {
				t.Errorf("%q: actions %q, stored %q and %q (%s)", reply, actions, got.Turns[0].Action, got.Turns[0].Text, got.Err)
			}
		}
	}
	f("pull jade", "pull jade", "")
	f("<think>\nhm\n</think>\n\npull jade", "pull jade", "<think>\nhm\n</think>\n\npull jade")
	f("hm</think>pull </think>", "pull </think>", "hm</think>pull </think>")
	f("<think>hm", "", "<think>hm") // an unfinished thought is no action
	f("<think></think>", "", "<think></think>")
}

// playThinking plays an episode of two turns with a thought in each.
func playThinking(t *testing.T, mode chat.Thinking) (*rollout.Driver, *samplertest.Scripted, rollout.Trajectory) {
	t.Helper()
	d, b := newDriver(t, corridors(2), samplertest.Say("<think>\nhm\n</think>\n\npull jade"), "<think>", "</think>")
	d.Thinking = mode
	s := spec()
	s.MaxTokens = 60
	got := d.Run(t.Context(), s)
	if got.Failed() {
		t.Fatal(got.Err)
	}
	return d, b, got
}

const firstTurn = "<|im_start|>system\nYou walk a corridor.<|im_end|>\n" +
	"<|im_start|>user\nLevers: jade, bone. Door 1 of 2 is iron.<|im_end|>\n<|im_start|>assistant\n"
const secondTurn = "<|im_end|>\n<|im_start|>user\nIt opens.\nLevers: jade, bone. Door 2 of 2 is iron.<|im_end|>\n" +
	"<|im_start|>assistant\n"

func TestThoughtsAreKept(t *testing.T) {
	_, b, got := playThinking(t, chat.ThinkingKeep)
	thought := "<think>\nhm\n</think>\n\npull jade"
	if len(got.RowsWithTips) != 1 || got.Splits != 0 || got.SplitReasons != nil {
		t.Fatalf("%d rows, %d splits", len(got.RowsWithTips), got.Splits)
	}
	if diff := cmp.Diff(firstTurn+thought+secondTurn+thought+"<|im_end|>",
		b.Decode(got.RowsWithTips[0].Tokens)); diff != "" {
		t.Error(diff)
	}
}

// A stripped thought splits the row at the sampled ids. No text is tokenized again, and every id is trained in the row
// where it was sampled.
func TestStrippedThoughtsSplitRows(t *testing.T) {
	d, b, got := playThinking(t, chat.ThinkingStrip)
	thought := "<think>\nhm\n</think>\n\npull jade<|im_end|>"
	if got.Splits != 1 || !cmp.Equal(got.SplitReasons, map[rollout.SplitReason]int{rollout.SplitThought: 1}) {
		t.Fatalf("splits %d: %v", got.Splits, got.SplitReasons)
	}
	for _, rows := range [][]rollout.Row{got.RowsWithTips, got.RowsWithoutTips} {
		var texts []string
		for _, row := range rows {
			texts = append(texts, b.Decode(row.Tokens))
		}
		if diff := cmp.Diff([]string{firstTurn + thought, firstTurn + "\n\npull jade" + secondTurn + thought},
			texts); diff != "" {
			t.Error(diff)
		}
	}
	call := b.Calls()[1].Request
	if got := call.Messages[2].Text(); got != "\n\npull jade" {
		t.Errorf("the message is %q", got)
	}
	// The reflection's prompt has no thoughts, and its own thought is not part of the tip.
	if err := d.Reflect(t.Context(), &got, spec().Policy, rollout.ReflectSpec{MaxTokens: 60}); err != nil {
		t.Fatal(err)
	}
	prompt := b.Decode(b.Calls()[2].Request.Prompt)
	want := firstTurn + "\n\npull jade" + secondTurn + "\n\npull jade<|im_end|>\n<|im_start|>user\nYou are out."
	if !strings.HasPrefix(prompt, want) {
		t.Errorf("the reflection's prompt is %q", prompt)
	}
	if got.Tip != "pull jade" {
		t.Errorf("tip %q", got.Tip)
	}
}

func TestStripNeedsATokenThatEndsThoughts(t *testing.T) {
	d, b := newDriver(t, corridors(2), samplertest.Say("pull jade"))
	d.Thinking = chat.ThinkingStrip
	err := d.ChatTemplate.CanStrip()
	if err == nil || !strings.Contains(err.Error(), "</think> is not a single token") ||
		!strings.Contains(err.Error(), `hint: sampler.thinking = "keep"`) {
		t.Errorf("can strip: %v", err)
	}
	if got := d.Run(t.Context(), spec()); got.Err != err.Error() || len(b.Calls()) != 0 {
		t.Errorf("%q after %d calls", got.Err, len(b.Calls()))
	}
	d.Thinking = "drop"
	if got := d.Run(t.Context(), spec()); !strings.Contains(got.Err, `thinking "drop": neither "keep" nor "strip"`) {
		t.Errorf("%q", got.Err)
	}
}

// Under an unstable template every prompt is the server's own rendering, and the trajectory has a row per turn and the
// reason.
func TestUnstableTemplatesGiveARowPerTurn(t *testing.T) {
	m := chattest.ChatML
	m.Render = chattest.RenderQwen3
	for _, mode := range []chat.Thinking{chat.ThinkingKeep, chat.ThinkingStrip} {
		d, b := newDriverOf(t, m, chat.TemplateAuto, corridors(3), samplertest.Say("<think>\nhm\n</think>\n\npull jade"),
			"<think>", "</think>")
		d.Thinking = mode
		s := spec()
		s.MaxTokens = 60
		s.Recall = recalls(prompt.Tip{ID: 4, Text: "At iron pull jade."})
		got := d.Run(t.Context(), s)
		if got.Failed() || len(got.RowsWithTips) != 3 || len(got.RowsWithoutTips) != 3 || got.Splits != 2 ||
			got.SplitReasons[rollout.SplitTemplate] != 2 {
			t.Fatalf("%s: %d and %d rows, %v", got.Err, len(got.RowsWithTips), len(got.RowsWithoutTips), got.SplitReasons)
		}
		if got.Unstable != d.ChatTemplate.Unstable() || got.Unstable == "" {
			t.Errorf("unstable: %q", got.Unstable)
		}
		last := b.Decode(b.Calls()[2].Request.Prompt)
		if strings.Contains(last, "hm") || strings.Count(last, "At iron") != 1 ||
			strings.Contains(b.Decode(got.RowsWithoutTips[2].Tokens), "At iron") {
			t.Errorf("%s: the last prompt is %q", mode, last)
		}
		if err := d.Reflect(t.Context(), &got, s.Policy, rollout.ReflectSpec{MaxTokens: 60}); err != nil ||
			got.Tip != "pull jade" {
			t.Errorf("%v, tip %q", err, got.Tip)
		}
		reflection := b.Decode(b.Calls()[3].Request.Prompt)
		if strings.Contains(reflection, "At iron") || strings.Count(reflection, "pull jade") != 3 ||
			!strings.HasSuffix(reflection, "Write one tip.<|im_end|>\n<|im_start|>assistant\n") {
			t.Errorf("the reflection's prompt is %q", reflection)
		}
	}
}

// A thought that the template opens in the prompt, and that is cut off, is neither an action nor a tip. A reply that
// ends by itself is one.
func TestThoughtsThatThePromptOpens(t *testing.T) {
	stable := func(messages []chat.Message, generation bool) (string, error) {
		shown := slices.Clone(messages)
		for i, m := range shown {
			if m.Role == chat.RoleAssistant {
				shown[i].Spans = []chat.Span{{Text: "<think>\n" + m.Text()}}
			}
		}
		text, err := chattest.RenderChatML(shown, generation)
		if generation {
			text += "<think>\n"
		}
		return text, err
	}
	unstable := func(messages []chat.Message, generation bool) (string, error) {
		text, err := chattest.RenderChatML(messages, generation)
		if generation {
			text += "<think>\n"
		}
		return text, err
	}
	f := func(render chattest.Rendering, isStable bool, reply, want, opened string) {
		t.Helper()
		beginning, _ := render([]chat.Message{chat.NewMessage(chat.RoleUser, "")}, true)
		_, beginning, _ = strings.Cut(beginning, "assistant\n")
		m := chattest.ChatML
		m.Render = render
		var actions []string
		d, _ := newDriverOf(t, m, chat.TemplateAuto, recordsActions(&actions, 1), samplertest.Say(beginning+reply),
			"<think>", "</think>")
		got := d.Run(t.Context(), spec())
		if got.Failed() {
			t.Errorf("%q: %s", reply, got.Err)
			return
		}
		if !slices.Equal(actions, []string{want}) || got.Turns[0].Opened != opened ||
			(got.Unstable == "") != isStable {
			t.Errorf("%q: actions %q, want %q; opened %q; unstable %q", reply, actions, want, got.Turns[0].Opened,
				got.Unstable)
		}
		err := d.Reflect(t.Context(), &got, spec().Policy, rollout.ReflectSpec{MaxTokens: 16})
		if err != nil || got.Tip != want {
			t.Errorf("%q: tip %q, want %q; %v", reply, got.Tip, want, err)
		}
	}
	for render, isStable := range map[*chattest.Rendering]bool{(*chattest.Rendering)(&stable): true,
		(*chattest.Rendering)(&unstable): false} {
		f(*render, isStable, "which lever is the right one", "", "<think>")
		f(*render, isStable, "hm</think>go on and on and on", "go on and on", "<think>")
		f(*render, isStable, "hm</think>go", "go", "")
		f(*render, isStable, "pull jade", "pull jade", "")
	}
	f(chattest.RenderChatML, true, "which lever is the right one", "which lever is t", "")
}
