package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/chat/chattest"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
)

// Rows are what the backend consumed and produced, whatever the model's
// template is and whatever leaves the prompt.
func TestRowsOfAllTemplatesAreWhatTheServerSaw(t *testing.T) {
	unstable := chattest.Model{Name: chat.TemplateAuto, End: chattest.ChatML.End, Render: chattest.RenderQwen3}
	models := append(chattest.Models(), unstable)
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		template := rapid.SampledFrom([]string{chat.TemplateAuto, m.Name}).Draw(t, "template")
		keep := rapid.SampledFrom([]rollout.Keep{rollout.KeepAll, rollout.KeepLatest}).Draw(t, "keep")
		thinking := rapid.SampledFrom([]chat.Thinking{chat.ThinkingKeep, chat.ThinkingStrip}).Draw(t, "thinking")
		got, b := playOf(t, m, template, keep, thinking)
		checkRows(t, got.RowsWithTips, b.Calls())
		checkTrained(t, "with tips", got.RowsWithTips, got.Turns)
		checkTrained(t, "without tips", got.RowsWithoutTips, got.Turns)
		checkSplits(t, got, keep, thinking == chat.ThinkingStrip)
		if len(got.RowsWithoutTips) != splitsWithoutTips(got, thinking == chat.ThinkingStrip)+1 {
			t.Fatalf("%d rows without tips", len(got.RowsWithoutTips))
		}
		checkRowWithoutTips(t, got, b, m, thinking == chat.ThinkingStrip)
	})
}

// checkRows holds rows against calls: every row ends with a call's answer, and
// every call is the beginning of a row.
func checkRows(t *rapid.T, rows []rollout.Row, calls []samplertest.Call) {
	t.Helper()
	row := 0
	for i, c := range calls {
		said := slices.Concat(c.Request.Prompt, c.Completion.IDs)
		if row == len(rows) || len(said) > len(rows[row].Tokens) || !slices.Equal(said, rows[row].Tokens[:len(said)]) {
			t.Fatalf("call %d is not the beginning of row %d of %d", i, row, len(rows))
		}
		if len(said) == len(rows[row].Tokens) {
			row++
		}
	}
	if row != len(rows) {
		t.Fatalf("%d rows, the calls end %d", len(rows), row)
	}
}

// thought reports whether a turn's ids end a thought.
func thought(turn rollout.Turn) bool {
	k := samplertest.NewTokenizer(chattest.Mergers...)
	return slices.Contains(turn.IDs, k.Encode("</think>")[0])
}

func splitsWithoutTips(got rollout.Trajectory, strip bool) (n int) {
	for _, turn := range got.Turns[:len(got.Turns)-1] {
		if got.Unstable != "" || strip && thought(turn) {
			n++
		}
	}
	return n
}

// checkSplits counts the reasons again.
func checkSplits(t *rapid.T, got rollout.Trajectory, keep rollout.Keep, strip bool) {
	t.Helper()
	var want map[rollout.SplitReason]int
	total := 0
	for _, turn := range got.Turns[:len(got.Turns)-1] {
		var why rollout.SplitReason
		switch {
		case got.Unstable != "":
			why = rollout.SplitTemplate
		case strip && thought(turn):
			why = rollout.SplitThought
		case keep == rollout.KeepLatest && len(turn.Tips) > 0:
			why = rollout.SplitTips
		default:
			continue
		}
		if want == nil {
			want = map[rollout.SplitReason]int{}
		}
		want[why]++
		total++
	}
	if diff := cmp.Diff(want, got.SplitReasons); diff != "" || got.Splits != total || len(got.RowsWithTips) != total+1 {
		t.Fatalf("%d splits, %d rows: %s", got.Splits, len(got.RowsWithTips), diff)
	}
}

// checkRowWithoutTips writes the tip-free rows a second time, as the model's own template
// renders the messages. That is no measure where a text forges a control token
// for it, or where it trims what the policy wrote.
func checkRowWithoutTips(t *rapid.T, got rollout.Trajectory, b *samplertest.Scripted, m chattest.Model, strip bool) {
	t.Helper()
	var said []chat.Message
	row, fair := 0, true
	for i, turn := range got.Turns {
		for _, p := range turn.Prompt {
			said = append(said, p.WithoutTips())
			fair = fair && !strings.Contains(p.WithoutTips().Text(), "<|im_")
		}
		if i == len(got.Turns)-1 || got.Unstable != "" || strip && thought(turn) {
			text, err := m.Render(said, true)
			if err != nil {
				t.Fatal(err)
			}
			want := b.Decode(slices.Concat(b.EncodeSpecial(text), turn.IDs))
			if diff := cmp.Diff(want, b.Decode(got.RowsWithoutTips[row].Tokens)); diff != "" && fair {
				t.Fatalf("row %d: %s", row, diff)
			}
			if slices.Contains(got.RowsWithoutTips[row].Tokens, b.Encode(marker)[0]) {
				t.Fatal("a tip in a row without tips")
			}
			row++
		}
		answer := turn.Text
		if answer == "" {
			answer = turn.Action
		}
		if _, after, ok := strings.Cut(answer, "</think>"); ok && strip {
			answer = after
		}
		fair = fair && answer == strings.TrimSpace(answer) && !strings.Contains(answer, "<|im_")
		said = append(said, chat.NewMessage(chat.RoleAssistant, answer))
	}
}
