package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

func TestLinesAreCutWhereTheyFillTheWidth(t *testing.T) {
	f := func(line string, width int, want ...string) {
		t.Helper()
		for rest, i := line, 0; rest != "" || i < len(want); i++ {
			var part string
			if part, rest = cutColumns(rest, width); i >= len(want) || part != want[i] {
				t.Errorf("%q: part %d is %q, want %q", line, i, part, want)
				return
			}
		}
	}
	f("one two three", 8, "one two ", "three")
	f("abcdefgh", 3, "abc", "def", "gh")
	f("a bcdefgh", 6, "a bcde", "fgh") // the space is too early
	f("日本語", 4, "日本", "語")
	f("日本", 1, "日", "本") // wider than the width
	f("e\u0301e\u0301", 1, "e\u0301", "e\u0301")
	rapid.Check(t, func(t *rapid.T) {
		line, width := rapid.String().Draw(t, "line"), rapid.IntRange(2, 20).Draw(t, "width")
		joined := ""
		for rest := line; rest != ""; {
			var part string
			if part, rest = cutColumns(rest, width); part == "" ||
				uniseg.StringWidth(part) > width && uniseg.GraphemeClusterCount(part) > 1 {
				t.Fatalf("part %q", part)
			}
			joined += part
		}
		if joined != line {
			t.Fatalf("%q became %q", line, joined)
		}
		for _, short := range []string{head(line, width), tail(line, width)} {
			if uniseg.StringWidth(short) > width {
				t.Fatalf("%q is wider than %d", short, width)
			}
		}
	})
}

func TestNamesAreShortened(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(head("task", 4), "task")
	f(head("longer task", 7), "longer…")
	f(head("two\nlines", 20), `two\nlines`)
	f(tail("house-1/variation-0", 12), "…variation-0")
	f(tail("日本語", 5), "…本語")
	f(number(-12345.678), "-1.23e+04")
	f(number(1./3), "0.3333")
	f(counted(1, "turn"), "1 turn")
	f(counted(0, "turn"), "0 turns")
}

// hostile is what a text from outside may hold. FORGED marks lines that could pass
// for lines of the command.
var hostile = "\x1b[2J\x1b]0;x\a\u202eevil\r\t\u2028\n── turn 9 FORGED ──\nreward 99 FORGED\n" +
	strings.Repeat("FORGED日本 e\u0301 ", 50) + "\xff\n"

func hostileEpisode(t *testing.T) view.Episode {
	t.Helper()
	dir := t.TempDir()
	l, err := ledger.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	text := strings.ToValidUTF8(hostile, "?")
	span := func(kind chat.SpanKind) chat.Span { return chat.Span{Kind: kind, Text: text} }
	p, err := rollout.Pack(rollout.Trajectory{
		Task: envs.Task{ID: text, Scope: text}, Step: 1, Stop: rollout.StopFailed, Err: text, Tip: text, TipCut: true,
		Turns: []rollout.Turn{{
			Prompt: []chat.Message{{Role: chat.RoleUser, Spans: []chat.Span{
				span(chat.SystemSpan), span(chat.FeedbackSpan), span(chat.TipsSpan), span(chat.StateSpan)}}},
			Tips: []prompt.Tip{{Text: text, Author: text}}, Dropped: []int64{1}, Action: text,
			Text:   text + strings.Repeat("x", 1<<20),
			Finish: sampler.FinishLength, Reward: -1.23456789e29, Score: -1.23456789e29,
		}},
		Final: envs.Observation{Feedback: text, State: text},
	})
	if err != nil {
		t.Fatal(err)
	}
	err = l.AddEpisode(t.Context(), ledger.Episode{Step: 1, Task: text, Mode: string(orchestrator.OffPolicy),
		Stop: "context_full", EnvReturn: -1.23456789e29, Score: -1.23456789e29, Trajectory: p.JSON,
		Tokens: p.Tokens, Logprobs: p.Logprobs})
	if err != nil {
		t.Fatal(err)
	}
	r, err := view.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	e, err := r.Episode(t.Context(), view.Query{In: view.Place{Step: 1}})
	if err != nil {
		t.Fatal(err)
	}
	e.Estimate = &view.Estimate{Advantage: -12345.6789, Bonus: 1e-9, Tokens: 100000}
	return e
}

// Texts of a run cannot control the terminal, leave its 80 columns or pass for lines of
// the command. Nothing of them is left out.
func TestHostileTextsAreInert(t *testing.T) {
	e := hostileEpisode(t)
	var conversation, rest bytes.Buffer
	printConversation(newConsole(&conversation, &conversation), e, nil)
	out := newConsole(&rest, &rest)
	out.print("%s", episodeRow(e))
	printListed(out, "runs", view.Overview{Dir: "runs/" + e.Task, Steps: 99999, Episodes: 1e8, Problem: e.Task,
		Changed: time.Now()})
	low, high := -1.23456789e29, 1.23456789e29
	tip := view.Tip{Scope: e.Task, Text: e.Tip, Seen: 1e6, Written: 1e6, Stored: 1e6, Score: low,
		Author: &view.Place{Step: 99999},
		Association: &view.Association{Seen: view.Sample{N: 1e5, Mean: low}, Others: view.Sample{N: 1e5, Mean: low},
			Difference: low, Low: &low, High: &high}}
	(&tipsCmd{}).print(out, []view.Tip{tip}, 1)
	(&tipsCmd{Effect: true}).print(out, []view.Tip{tip}, 2)
	for _, text := range []string{conversation.String(), rest.String()} {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if w := uniseg.StringWidth(line); w > columns {
				t.Errorf("%d columns: %.200q", w, line)
			}
			if strings.ContainsFunc(line, unicode.IsControl) || strings.ContainsAny(line, "\u202e\u2028") {
				t.Errorf("%.200q", line)
			}
			ours := strings.HasPrefix(line, "  │ ") || strings.HasPrefix(line, "  ┊ ")
			if at := strings.Index(line, "FORGED"); at >= 0 && !ours && strings.HasPrefix(line, "── turn 9") {
				t.Errorf("it passes for a line of the command: %.200q", line)
			}
		}
	}
	// The lines after the bars are the text.
	var shown strings.Builder
	_, reply, _ := strings.Cut(conversation.String(), "CUT at rollout.max_tokens\n")
	for line := range strings.Lines(reply) {
		text, begins := strings.CutPrefix(line, "  │ ")
		text, continues := strings.CutPrefix(text, "  ┊ ")
		if !begins && !continues {
			break
		}
		if begins && shown.Len() > 0 {
			shown.WriteString("\n")
		}
		shown.WriteString(strings.TrimSuffix(text, "\n"))
	}
	want := safetext.Escape(strings.NewReplacer("\r", `\r`, "\t", `\t`).Replace(e.Trajectory.Turns[0].Text))
	if got := shown.String(); got != want {
		at := 0
		for at < len(got) && at < len(want) && got[at] == want[at] {
			at++
		}
		t.Errorf("%d bytes are shown, want %d; from byte %d on %.50q, want %.50q",
			len(got), len(want), at, got[at:], want[at:])
	}
}

// The opening lines of run fit, and a step says which replies were of no use.
func TestOpeningAndBadRepliesFit(t *testing.T) {
	c := config.Default()
	c.Algorithm.Groups, c.Algorithm.GroupSize = 1000, 1000
	text := beginning(c, "/data/experiments/runs/vault-with-a-long-name", 754*time.Second)
	for line := range strings.Lines(text) {
		if n := uniseg.StringWidth(strings.TrimSpace(line)); n > columns {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if !strings.Contains(text, "vault-with-a-long-name  started in 754.0s\n") ||
		!strings.Contains(text, "1000 groups of 1000 episodes per step\n") {
		t.Errorf("got %q", text)
	}
	for want, r := range map[string]orchestrator.Replies{
		"": {N: 8, Cut: 3}, "of 8 replies: 2 empty": {N: 8, Empty: 2},
		"of 8 replies: 1 empty, 3 without a valid action": {N: 8, Empty: 1, NoAction: 3},
	} {
		if got := badReplies(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
