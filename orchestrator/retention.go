package orchestrator

import (
	"context"
	"unicode/utf8"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/rollout"
)

const (
	// slimAction is the longest part of an action that an old episode keeps, in bytes.
	slimAction = 80
	// slimSteps bounds how many old steps a commit slims: the first ones after
	// run.keep_episodes was set may find many.
	slimSteps = 50
)

// A retention drops the texts and token ids of old episodes.
type retention struct {
	ledger *ledger.Ledger
	keep   int  // steps whose episodes are complete; 0: all
	memory bool // the states are needed to replay what the memory has learnt
}

// run slims the episodes that are old after a step.
func (r retention) run(ctx context.Context, step int64) error {
	if r.keep == 0 {
		return nil
	}
	return r.ledger.Slim(ctx, step-int64(r.keep), slimSteps, func(e ledger.Episode) (ledger.Episode, error) {
		t, err := EpisodeOf(e)
		if err != nil {
			return e, err
		}
		p, err := rollout.Pack(r.slim(t))
		e.Trajectory, e.Tokens, e.Logprobs = p.JSON, p.Tokens, p.Logprobs
		return e, err
	})
}

// slim returns what stays of an old episode: what the memory has learnt from it, and
// what its statistics follow from.
func (r retention) slim(t rollout.Trajectory) rollout.Trajectory {
	out := t
	out.Slim, out.Final = true, envs.Observation{}
	out.RowsWithTips, out.RowsWithoutTips = nil, nil
	out.TipIDs, out.TipLogprobs = nil, nil
	out.Task.Instruction, out.Task.Reflection = "", "" // the plan has them
	out.Turns = make([]rollout.Turn, len(t.Turns))
	for i, turn := range t.Turns {
		kept := turn
		kept.Took, kept.Sample = 0, 0
		kept.Prompt, kept.Text, kept.IDs, kept.Logprobs, kept.Dropped = nil, "", nil, nil, nil
		kept.Observation = envs.Observation{}
		if r.memory {
			kept.Observation.State = turn.Observation.State
		}
		if len(kept.Action) > slimAction {
			n := slimAction
			for !utf8.RuneStart(kept.Action[n]) {
				n--
			}
			kept.Action = kept.Action[:n] + "…"
		}
		out.Turns[i] = kept
	}
	return out
}
