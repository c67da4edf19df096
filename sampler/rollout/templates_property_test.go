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

// For all templates and all reasons to split, rows are what the backend consumed and produced.
func TestRowsOfAllTemplatesEqualTheServersTokens(t *testing.T) {
	unstable := chattest.Model{Name: chat.TemplateAuto, End: chattest.ChatML.End, Render: chattest.RenderQwen3}
	models := append(chattest.Models(), unstable)
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom(models).Draw(t, "model")
		template := rapid.SampledFrom([]string{chat.TemplateAuto, m.Name}).Draw(t, "template")
		keep := rapid.SampledFrom([]rollout.Keep{rollout.KeepAll, rollout.KeepLatest}).Draw(t, "keep")
		thinking := rapid.SampledFrom([]chat.Thinking{chat.ThinkingKeep, chat.ThinkingStrip}).Draw(t, "thinking")
		got, b := rendering{m, template, keep, thinking}.randomEpisode(t)
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

// checkRows compares rows with calls: every row ends with a call's completion, and every call is the beginning of a
// row.
func checkRows(t *rapid.T, rows []rollout.Row, calls []samplertest.Call) {
	t.Helper()
	row := 0
	for i, c := range calls {
		tokens := slices.Concat(c.Request.Prompt, c.Completion.IDs)
		n := len(tokens)
		if row == len(rows) || n > len(rows[row].Tokens) || !slices.Equal(tokens, rows[row].Tokens[:n]) {
			t.Fatalf("call %d is not the beginning of row %d of %d", i, row, len(rows))
		}
		if n == len(rows[row].Tokens) {
			row++
		}
	}
	if row != len(rows) {
		t.Fatalf("%d rows, want %d", len(rows), row)
	}
}

// endsThought reports whether a turn's ids contain the end of a thought.
func endsThought(turn rollout.Turn) bool {
	k := samplertest.NewTokenizer(chattest.Mergers...)
	return slices.Contains(turn.IDs, k.Encode("</think>")[0])
}

func splitsWithoutTips(got rollout.Trajectory, strip bool) (n int) {
	for _, turn := range got.Turns[:len(got.Turns)-1] {
		if got.Unstable != "" || strip && endsThought(turn) {
			n++
		}
	}
	return n
}

// checkSplits checks the number of splits for each reason.
func checkSplits(t *rapid.T, got rollout.Trajectory, keep rollout.Keep, strip bool) {
	t.Helper()
	var want map[rollout.SplitReason]int
	total := 0
	for _, turn := range got.Turns[:len(got.Turns)-1] {
		var reason rollout.SplitReason
		switch {
		case got.Unstable != "":
			reason = rollout.SplitTemplate
		case strip && endsThought(turn):
			reason = rollout.SplitThought
		case keep == rollout.KeepLatest && len(turn.Tips) > 0:
			reason = rollout.SplitTips
		default:
			continue
		}
		if want == nil {
			want = map[rollout.SplitReason]int{}
		}
		want[reason]++
		total++
	}
	if diff := cmp.Diff(want, got.SplitReasons); diff != "" || got.Splits != total || len(got.RowsWithTips) != total+1 {
		t.Fatalf("%d splits, %d rows: %s", got.Splits, len(got.RowsWithTips), diff)
	}
}

// checkRowWithoutTips compares the rows without tips with the rendering of the model's own template. The two are not
// comparable after a text that forges a control token, or a reply that the template trims.
func checkRowWithoutTips(t *rapid.T, got rollout.Trajectory, b *samplertest.Scripted, m chattest.Model, strip bool) {
	t.Helper()
	var history []chat.Message
	row, comparable := 0, true
	for i, turn := range got.Turns {
		for _, p := range turn.Prompt {
			history = append(history, p.WithoutTips())
			comparable = comparable && !strings.Contains(p.WithoutTips().Text(), "<|im_")
		}
		if i == len(got.Turns)-1 || got.Unstable != "" || strip && endsThought(turn) {
			text, err := m.Render(history, true)
			if err != nil {
				t.Fatal(err)
			}
			want := b.Decode(slices.Concat(b.EncodeSpecial(text), turn.IDs))
			if diff := cmp.Diff(want, b.Decode(got.RowsWithoutTips[row].Tokens)); diff != "" && comparable {
				t.Fatalf("row %d: %s", row, diff)
			}
			if slices.Contains(got.RowsWithoutTips[row].Tokens, b.Encode(tipMarker)[0]) {
				t.Fatal("a row without tips has a tip")
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
		comparable = comparable && answer == strings.TrimSpace(answer) && !strings.Contains(answer, "<|im_")
		history = append(history, chat.NewMessage(chat.RoleAssistant, answer))
	}
}
