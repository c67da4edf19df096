package orchestrator

import (
	"context"
	"fmt"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// Replies counts the policy's replies of a step.
type Replies struct {
	N     int `json:"n"`
	Empty int `json:"empty"` // without an action, for example only a thought
	Cut   int `json:"cut"`   // cut off at rollout.max_tokens
}

func (r *Replies) add(t rollout.Trajectory) {
	for _, turn := range t.Turns {
		r.N++
		if turn.Action == "" {
			r.Empty++
		}
		if turn.Finish == sampler.FinishLength {
			r.Cut++
		}
	}
}

// few reports whether less than half of the replies are of a kind.
func (r Replies) few(n int) bool { return 2*n < max(r.N, 1) }

// replyReporter warns if most replies of a step are empty or cut off.
type replyReporter struct {
	ledger *ledger.Ledger
	log    zerolog.Logger
}

// report records what is wrong with the replies of a step as an event. It logs
// only what was not wrong in the step before.
func (r replyReporter) report(ctx context.Context, in Sampled, before state) error {
	var now, last Replies
	for _, group := range in.Groups {
		for _, t := range group {
			if !t.Failed() {
				now.add(t)
			}
		}
	}
	if n := len(before.recent); n > 0 {
		last = before.recent[n-1].Replies
	}
	problems := []struct {
		now, last int
		text      string
	}{
		{now.Empty, last.Empty, "are empty: a model that thinks may have written only its thought; " +
			"raise rollout.max_tokens, or switch thinking off with sampler.template_args in a new run"},
		{now.Cut, last.Cut, "are cut off at rollout.max_tokens: raise it in a new run"},
	}
	for _, p := range problems {
		if now.few(p.now) {
			continue
		}
		text := fmt.Sprintf("%d of %d replies %s", p.now, now.N, p.text)
		if last.few(p.last) {
			r.log.Warn().Int64("step", in.Plan.Step).Msg(text)
		}
		if err := r.ledger.Event(ctx, in.Plan.Step, "replies", text); err != nil {
			return err
		}
	}
	return nil
}
