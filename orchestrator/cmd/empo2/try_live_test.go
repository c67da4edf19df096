package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// watchOnTerminal lets f show an episode while it is played. It returns the lines on the
// terminal, the one that is being written included.
func watchOnTerminal(t *testing.T, f func(*liveReply)) []string {
	t.Helper()
	out, shown := onTerminal(80)
	text, err := prompt.Source("plain")
	if err != nil {
		t.Fatal(err)
	}
	texts, err := prompt.Parse("plain", text)
	if err != nil {
		t.Fatal(err)
	}
	f(&liveReply{trial: &trial{tryCmd: &tryCmd{}, console: out, seeds: make([]uint64, 8), texts: texts}})
	lines, now := screen(shown.String())
	if now != "" {
		lines = append(lines, now)
	}
	for i, line := range lines {
		lines[i] = strings.TrimRight(strings.TrimRight(line, "─"), " ")
	}
	return lines
}

func userTurn(state string) rollout.Turn {
	return rollout.Turn{Prompt: []chat.Message{{Role: chat.RoleUser,
		Spans: []chat.Span{{Kind: chat.StateSpan, Text: state}}}}}
}

func replied(turn rollout.Turn, text string) rollout.Turn {
	turn.Action, turn.IDs, turn.Finish = text, make([]int32, 3), sampler.FinishStop
	return turn
}

// The prompt is shown before the reply, and the reply while it is written.
func TestAReplyIsShownWhileItIsWritten(t *testing.T) {
	long := strings.Repeat("many words ", 8)
	turn := userTurn("A door.")
	until := func(written ...string) func(*liveReply) {
		return func(l *liveReply) {
			l.watch(nil, turn, "")
			for _, text := range written {
				l.watch(nil, turn, text)
			}
		}
	}
	head := []string{"── prompt", "state", "  │ A door.", "── reply 1 of 8", "reply"}
	f := func(do func(*liveReply), want ...string) {
		t.Helper()
		if diff := cmp.Diff(append(head, want...), watchOnTerminal(t, do)); diff != "" {
			t.Error(diff)
		}
	}
	f(until())
	f(until("Op", "Open\x1b[2J"), `  │ Open\u001b[2J`)
	f(until("Open\n", "Open\nit"), "  │ Open", "  │ it")
	f(until(long[:60], long), "  │ "+strings.TrimSpace(long[:71]), "  ┊ words many words")
	f(func(l *liveReply) {
		until("Open", "Open\nit")(l)
		turn := replied(turn, "Open\nit now")
		turn.Finish = sampler.FinishLength
		l.finish(triedReply{Turns: []triedTurn{{turn: turn}}})
	}, "  │ Open", "  │ it now", "3 tokens, CUT at rollout.max_tokens",
		`action "Open\nit now", reward 0, score 0, 0.00 s`)
}

// Each turn of an episode is complete before the next prompt is shown.
func TestTurnsAreShownWhileTheyArePlayed(t *testing.T) {
	first, second := userTurn("A door."), userTurn("A hall.")
	got := watchOnTerminal(t, func(l *liveReply) {
		l.watch(nil, first, "")
		l.watch(nil, first, "open")
		done := replied(first, "open")
		l.watch([]rollout.Turn{done}, second, "")
		l.finish(triedReply{Success: true, Return: 1, Turns: []triedTurn{{turn: done}, {turn: replied(second, "go")}}})
	})
	want := []string{"── prompt", "state", "  │ A door.", "── reply 1 of 8", "reply", "  │ open", "3 tokens",
		`action "open", reward 0, score 0, 0.00 s`, "state", "  │ A hall.", "reply", "  │ go", "3 tokens",
		`action "go", reward 0, score 0, 0.00 s`, "success, return 1, 2 turns"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A reply that the server begins anew, an episode that is retried, and one that fails.
func TestRepliesThatBeginAnew(t *testing.T) {
	turn := userTurn("A door.")
	got := watchOnTerminal(t, func(l *liveReply) {
		l.watch(nil, turn, "")
		l.watch(nil, turn, "one\ntwo")
		l.watch(nil, turn, "three\nfour")
		l.watch(nil, turn, "")
		l.watch(nil, turn, "five")
		l.finish(triedReply{Error: "no server"})
	})
	want := []string{"── prompt", "state", "  │ A door.", "── reply 1 of 8", "reply", "  │ one",
		"reply, sampled once more", "  │ three", "── reply 1 of 8, once more", "reply", "FAILED", "  │ no server"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Replies whose returns are all equal teach a run nothing.
func TestFlatReturns(t *testing.T) {
	f := func(want bool, returns ...float64) {
		t.Helper()
		var s trySummary
		for _, r := range returns {
			s.add(prompt.Template{}, rollout.Trajectory{EnvReturn: r})
		}
		if s.flat() != want {
			t.Errorf("%g: flat is %v", returns, s.flat())
		}
	}
	f(false)
	f(false, 0)
	f(true, 0, 0, 0)
	f(true, 1, 1)
	f(false, 0, 1, 0)
}
