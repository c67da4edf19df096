package orchestrator

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// Replies that are mostly empty or cut off are an event of each step and one
// warning.
func TestEmptyAndCutReplies(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	r := replyReporter{ledger: led, log: zerolog.New(&log)}
	turn := func(action string, finish sampler.FinishReason) rollout.Turn {
		return rollout.Turn{Action: action, Finish: finish}
	}
	good, empty := turn("north", sampler.FinishStop), turn("", sampler.FinishStop)
	cut := turn("nor", sampler.FinishLength)
	f := func(before state, events, warnings int, turns ...rollout.Turn) state {
		t.Helper()
		episode := rollout.Trajectory{Turns: turns}
		in := Sampled{Plan: Plan{Step: 3}, Groups: [][]rollout.Trajectory{{episode, {Stop: rollout.StopFailed}}}}
		if err := r.report(context.Background(), in, before); err != nil {
			t.Fatal(err)
		}
		if got := len(eventsOf(t, led, "replies")); got != events {
			t.Errorf("%d events, want %d", got, events)
		}
		if got := strings.Count(log.String(), "replies are"); got != warnings {
			t.Errorf("%d warnings, want %d: %s", got, warnings, log.String())
		}
		var m StepMetrics
		m.Replies.add(episode)
		return state{recent: before.with(m)}
	}
	now := f(state{}, 0, 0)
	now = f(now, 0, 0, good, good, empty)
	now = f(now, 1, 1, good, empty)
	now = f(now, 2, 1, empty, empty)
	now = f(now, 3, 2, good, cut)
	f(now, 4, 2, cut, cut)
	if !strings.Contains(log.String(), "1 of 2 replies are empty: a model that thinks") {
		t.Error(log.String())
	}
}

// Tips that are mostly cut off and episodes that mostly fill the context are an event of
// each step and one warning, which names the keys.
func TestCutTipsAndFullContexts(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	r := replyReporter{ledger: led, log: zerolog.New(&log)}
	full := rollout.Trajectory{Stop: rollout.StopContextFull, TipIDs: []int32{4}, Tip: "Go", TipCut: true}
	good := rollout.Trajectory{Stop: rollout.StopTerminated, TipIDs: []int32{4}, Tip: "Go north."}
	f := func(before state, events int, episodes ...rollout.Trajectory) state {
		t.Helper()
		in := Sampled{Plan: Plan{Step: 3}, Groups: [][]rollout.Trajectory{episodes}}
		if err := r.report(t.Context(), in, before); err != nil {
			t.Fatal(err)
		}
		if got := len(eventsOf(t, led, "replies")); got != events {
			t.Errorf("%d events, want %d: %s", got, events, log.String())
		}
		m := StepMetrics{Stops: map[rollout.StopReason]int{}}
		for _, e := range episodes {
			m.Replies.add(e)
			m.Stops[e.Stop]++
		}
		return state{recent: before.with(m)}
	}
	now := f(state{}, 0, full, good, good)
	now = f(now, 2, full, good)
	f(now, 4, full, full)
	for _, want := range []string{
		"1 of 2 tips are cut off: raise reflection.max_tokens",
		"1 of 2 episodes ended with a full context: raise sampler.max_model_len, or lower rollout.max_turns",
	} {
		if strings.Count(log.String(), want) != 1 || strings.Contains(log.String(), "2 of 2") {
			t.Errorf("want one warning %q: %s", want, log.String())
		}
	}
}

// A thought that was cut off is no action and no tip. It is counted, and the warnings name the keys.
func TestUnfinishedThoughtsAreCounted(t *testing.T) {
	var log bytes.Buffer
	r := replyReporter{ledger: newLedger(t), log: zerolog.New(&log)}
	thought := rollout.Turn{Text: "<think>north or", Finish: sampler.FinishLength}
	in := Sampled{Plan: Plan{Step: 3}, Groups: [][]rollout.Trajectory{{
		{Turns: []rollout.Turn{thought, thought}, TipIDs: []int32{4}},
		{Turns: []rollout.Turn{{Action: "north"}}, TipIDs: []int32{4}, Tip: "Go north."},
		{Turns: []rollout.Turn{{Action: "north"}}}, // no tip was asked for
	}}}
	if err := r.report(t.Context(), in, state{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2 of 4 replies are empty, and 2 of them hold only a thought that was cut off: raise rollout.max_tokens",
		"1 of 2 replies to the request for a tip hold none", "raise reflection.max_tokens",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in %s", want, log.String())
		}
	}
}
