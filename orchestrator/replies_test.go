package orchestrator

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// Each shortcoming is one warning and one event: when its share reaches a tenth, and
// when it has grown by a fifth of all. The warning names the key.
func TestShortcomingsAreReportedOnceAndWhenTheyGrow(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	r := replyReporter{ledger: led, log: zerolog.New(&log)}
	var warned shares
	f := func(wants []string, episodes ...rollout.Trajectory) {
		t.Helper()
		log.Reset()
		before := len(eventsOf(t, led, "replies"))
		in := Sampled{Plan: Plan{Step: 3}, Groups: [][]rollout.Trajectory{episodes}}
		var err error
		if warned, err = r.report(t.Context(), in, warned); err != nil {
			t.Fatal(err)
		}
		if got := len(eventsOf(t, led, "replies")) - before; got != len(wants) {
			t.Errorf("%d events, want %d: %s", got, len(wants), log.String())
		}
		for _, want := range wants {
			if strings.Count(log.String(), want) != 1 {
				t.Errorf("want one warning %q: %s", want, log.String())
			}
		}
	}
	turn := func(action string, finish sampler.FinishReason, invalid bool) rollout.Turn {
		return rollout.Turn{Action: action, Finish: finish, Invalid: invalid}
	}
	many := func(n int, bad ...rollout.Turn) rollout.Trajectory {
		e := rollout.Trajectory{Stop: rollout.StopTerminated, Turns: bad}
		for len(e.Turns) < n {
			e.Turns = append(e.Turns, turn("north", sampler.FinishStop, false))
		}
		return e
	}
	empty, cut := turn("", sampler.FinishStop, true), turn("nor", sampler.FinishLength, false)
	refused := turn("nroth", sampler.FinishStop, true)
	f(nil, many(11, empty))
	f([]string{"1 of 10 replies are empty: a model that thinks"}, many(10, empty))
	f(nil, many(10, empty, empty))
	f([]string{"3 of 10 replies are empty"}, many(10, empty, empty, empty))
	f([]string{"1 of 10 replies are cut off at rollout.max_tokens"}, many(10, cut))
	f([]string{"refused the actions of 2 of 10 replies", "prompt.template"}[:1], many(10, refused, refused))
	f(nil, many(10, refused, refused, empty, cut))

	full := rollout.Trajectory{Stop: rollout.StopContextFull, TipIDs: []int32{4}, Tip: "Go", TipCut: true}
	good := rollout.Trajectory{Stop: rollout.StopTerminated, TipIDs: []int32{4}, Tip: "Go north."}
	failed := rollout.Trajectory{Stop: rollout.StopFailed, Err: "it broke"}
	f([]string{"1 of 2 tips are cut off: raise reflection.max_tokens",
		"1 of 2 episodes ended with a full context: raise sampler.max_model_len, or lower rollout.max_turns"}, full, good)
	f([]string{"1 of 4 episodes failed: empo2 show RUN --failed"}, failed, good, good, good)
	f(nil, full, good, failed, good)
}

// An evaluation counts its replies, and warns of what the training has not warned of.
func TestShortcomingsOfAnEvaluation(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	r := replyReporter{ledger: led, log: zerolog.New(&log)}
	cut := rollout.Turn{Action: "nor", Finish: sampler.FinishLength}
	empty := rollout.Turn{Text: "<think>nor", Finish: sampler.FinishLength}
	e := Evaluation{Step: 4}
	done := []rollout.Trajectory{{Stop: rollout.StopTerminated, Turns: []rollout.Turn{cut, empty}},
		{Stop: rollout.StopFailed, Turns: []rollout.Turn{cut}, Err: "it broke"}}
	if err := summarize(&e, []envs.Task{{ID: "a"}}, done); err != nil {
		t.Fatal(err)
	}
	if e.Replies != (Replies{N: 2, Cut: 2, Empty: 1, Unfinished: 1}) || e.Stops[rollout.StopFailed] != 1 {
		t.Errorf("%+v, %v", e.Replies, e.Stops)
	}
	if got := e.Warnings(); len(got) != 3 {
		t.Errorf("%q", got)
	}
	warned := shares{}
	for range 2 {
		if err := r.evaluation(t.Context(), e, shares{cutReplies: 1}, &warned); err != nil {
			t.Fatal(err)
		}
	}
	if got := eventsOf(t, led, "replies"); len(got) != 2 ||
		strings.Contains(log.String(), "cut off at rollout.max_tokens") ||
		!strings.Contains(log.String(), "in the evaluation 1 of 2 replies are empty") {
		t.Errorf("%d events: %s", len(got), log.String())
	}
}

// A continued run knows what it has warned of from the metrics of its steps.
func TestWarnedSharesFollowFromMetrics(t *testing.T) {
	m := StepMetrics{Replies: Replies{N: 10, Cut: 4, Tips: 4},
		Stops: map[rollout.StopReason]int{rollout.StopTerminated: 4}}
	warned, news := shares{}.with(sharesOf(m.Replies, m.Stops))
	if len(news) != 1 || warned[cutReplies] != 0.4 {
		t.Errorf("warned %v, news %v", warned, news)
	}
	if _, news := warned.with(sharesOf(Replies{N: 10, Cut: 5}, nil)); len(news) != 0 {
		t.Errorf("5 of 10 after 4 of 10: %v", news)
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
	if _, err := r.report(t.Context(), in, shares{}); err != nil {
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

// The warnings of a step are those of the log, with their keys.
func TestWarningsOfAStep(t *testing.T) {
	m := StepMetrics{Replies: Replies{N: 10, Cut: 1, NoAction: 5, Tips: 10}, Stops: map[rollout.StopReason]int{
		rollout.StopTerminated: 95, rollout.StopContextFull: 5}}
	got := m.Warnings()
	if len(got) != 2 || !strings.Contains(got[0], "1 of 10 replies are cut off at rollout.max_tokens") ||
		!strings.Contains(got[1], "5 of 10 replies") {
		t.Errorf("warnings: %q", got)
	}
}
