package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/empo2/empo2/sampler/rollout"
)

// A liveReply shows an episode on a terminal while it is played: each prompt before the
// policy replies, and the reply as it is written, if the backend streams.
type liveReply struct {
	*trial
	begun   time.Time     // of the round
	first   time.Duration // until the first part of a reply; 0: none came
	turns   int           // whose prompts are shown
	printed []string      // the lines of the reply that are complete
}

// watch is called while the episode is played.
func (l *liveReply) watch(before []rollout.Turn, next rollout.Turn, written string) {
	switch {
	case written != "":
		if l.first == 0 {
			l.first = time.Since(l.begun)
		}
		lines := blockLines(written)
		l.print(lines[:len(lines)-1])
		l.draft(lines[len(lines)-1])
		return
	case len(before) == 0 && l.turns == 0:
		l.console.print("%s", rule("prompt"))
		l.printPrompt(triedTurn{turn: next})
		l.console.print("%s", rule(l.title(1)))
	case len(before) == 0: // it is retried
		l.console.print("%s", rule(l.title(1)+", once more"))
	default:
		l.end(before[len(before)-1])
		l.printPrompt(triedTurn{turn: next})
	}
	l.turns, l.printed = len(before)+1, nil
	l.console.print("reply")
}

// print prints the lines of a reply that are not on the screen.
func (l *liveReply) print(lines []string) {
	if n := len(l.printed); n > len(lines) || !slices.Equal(l.printed, lines[:n]) {
		l.console.print("reply, sampled once more") // the server was lost
		l.printed = nil
	}
	for _, line := range lines[len(l.printed):] {
		l.console.print("%s", line)
	}
	l.printed = lines
}

// end prints what is known after a turn.
func (l *liveReply) end(turn rollout.Turn) {
	l.draft("")
	l.print(blockLines(cmp.Or(turn.Text, turn.Action)))
	l.console.print("%s", replyLength(turn))
	l.printOutcome(triedTurn{turn: turn, Action: l.texts.Action(turn.Action), Reward: turn.Reward, Score: turn.Score,
		Seconds: turn.Sample.Seconds()})
}

// finish prints the rest of the episode.
func (l *liveReply) finish(r triedReply) {
	l.draft("")
	if n := len(r.Turns); n > 0 && n == l.turns {
		l.end(r.Turns[n-1].turn)
	}
	l.printEnd(r)
}
