package orchestrator

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
)

// Replies counts the policy's replies of a step.
type Replies struct {
	N     int `json:"n"`
	Empty int `json:"empty"` // without an action, for example only a thought
	Cut   int `json:"cut"`   // cut off at rollout.max_tokens
	// Unfinished are those of the empty ones that hold only a thought without its end.
	Unfinished int `json:"unfinished,omitempty"`
	Tips       int `json:"tips,omitempty"`    // replies to the request for a tip
	NoTips     int `json:"no_tips,omitempty"` // of those, without a tip
	// CutTips are those whose tip ends early, at the limit of tokens or of characters.
	CutTips int `json:"cut_tips,omitempty"`
}

func (r *Replies) add(t rollout.Trajectory) {
	for _, turn := range t.Turns {
		r.N++
		if turn.Action == "" {
			r.Empty++
			if _, unfinished := chat.SplitThought(turn.Opened + turn.Text); unfinished {
				r.Unfinished++
			}
		}
		if turn.Finish == sampler.FinishLength {
			r.Cut++
		}
	}
	if t.TipIDs != nil {
		r.Tips++
		if t.Tip == "" {
			r.NoTips++
		} else if t.TipCut {
			r.CutTips++
		}
	}
}

// few reports whether n is less than half of all.
func few(n, all int) bool { return 2*n < max(all, 1) }

// replyReporter warns if most replies of a step are empty or cut off, hold no tip or
// a tip that was cut, or if most episodes fill the context.
type replyReporter struct {
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// report records what is wrong with the replies of a step as an event. It logs
// only what was not wrong in the step before.
func (r replyReporter) report(ctx context.Context, in Sampled, before state) error {
	var now, last Replies
	var episodes, full, episodesBefore, fullBefore int
	for _, group := range in.Groups {
		for _, t := range group {
			if !t.Failed() {
				now.add(t)
				episodes++
			}
			if t.Stop == rollout.StopContextFull {
				full++
			}
		}
	}
	if n := len(before.recent); n > 0 {
		last, fullBefore = before.recent[n-1].Replies, before.recent[n-1].Stops[rollout.StopContextFull]
		for _, stopped := range before.recent[n-1].Stops {
			episodesBefore += stopped
		}
	}
	for _, p := range []struct {
		few, fewBefore bool
		text           string
	}{
		{few(now.Empty, now.N), few(last.Empty, last.N), now.emptyText()},
		{few(now.Cut, now.N), few(last.Cut, last.N), fmt.Sprintf(
			"%d of %d replies are cut off at rollout.max_tokens: raise it in a new run", now.Cut, now.N)},
		{few(now.NoTips, now.Tips), few(last.NoTips, last.Tips), fmt.Sprintf(
			"%d of %d replies to the request for a tip hold none: a model that thinks may have written only its thought; "+
				"raise reflection.max_tokens in a new run", now.NoTips, now.Tips)},
		{few(now.CutTips, now.Tips), few(last.CutTips, last.Tips), fmt.Sprintf(
			"%d of %d tips are cut off: raise reflection.max_tokens in a new run, or max_tip_characters in the "+
				"prompt template", now.CutTips, now.Tips)},
		{few(full, episodes), few(fullBefore, episodesBefore), fmt.Sprintf(
			"%d of %d episodes ended with a full context: raise sampler.max_model_len, or lower rollout.max_turns, "+
				"in a new run", full, episodes)},
	} {
		if p.few {
			continue
		}
		if p.fewBefore {
			r.log.Warn().Int64("step", in.Plan.Step).Msg(p.text)
		}
		if err := r.ledger.Event(ctx, in.Plan.Step, "replies", p.text); err != nil {
			return err
		}
	}
	return nil
}

// emptyText says how many replies have no action, and what may help.
func (r Replies) emptyText() string {
	if r.Unfinished > 0 {
		return fmt.Sprintf("%d of %d replies are empty, and %d of them hold only a thought that was cut off: raise "+
			"rollout.max_tokens, or switch thinking off with sampler.template_args in a new run", r.Empty, r.N, r.Unfinished)
	}
	return fmt.Sprintf("%d of %d replies are empty: a model that thinks may have written only its thought; raise "+
		"rollout.max_tokens, or switch thinking off with sampler.template_args in a new run", r.Empty, r.N)
}
