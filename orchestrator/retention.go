package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
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
	// actions says that the whole actions are needed too.
	actions bool
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
		e.Trajectory, err = withoutZeros(r.slim(t))
		e.Tokens, e.Logprobs = nil, nil // the JSON is complete
		return e, err
	})
}

// withoutZeros is the JSON of a trajectory without zero values. It is read as the same
// trajectory.
func withoutZeros(t rollout.Trajectory) ([]byte, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber() // seeds have 64 bits
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return nil, err
	}
	return json.Marshal(nonZero(all))
}

// nonZero removes the zero values of objects, at all depths. The elements of lists stay.
func nonZero(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			switch value = nonZero(value); value {
			case nil, "", false, json.Number("0"):
				delete(v, key)
			default:
				v[key] = value
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			if kept := nonZero(v[i]); kept != nil {
				v[i] = kept
			}
		}
		if len(v) == 0 {
			return nil
		}
	}
	return v
}

// slim returns what stays of an old episode: what the memory has learnt from it, and
// what its statistics follow from.
func (r retention) slim(t rollout.Trajectory) rollout.Trajectory {
	out := t
	out.Slim, out.Final = true, envs.Observation{}
	out.RowsWithTips, out.RowsWithoutTips = nil, nil
	out.TipIDs, out.TipLogprobs = nil, nil
	out.SplitReasons, out.Splits, out.Took, out.Unstable = nil, 0, 0, ""
	out.Task.Instruction, out.Task.Reflection = "", "" // the plan has them
	out.Turns = make([]rollout.Turn, len(t.Turns))
	for i, turn := range t.Turns {
		kept := turn
		kept.Took, kept.Sample, kept.PromptLen = 0, 0, 0
		kept.Prompt, kept.Text, kept.IDs, kept.Logprobs, kept.Dropped = nil, "", nil, nil, nil
		kept.Observation = envs.Observation{}
		if r.memory {
			kept.Observation.State = turn.Observation.State
		}
		if kept.Candidates = nil; r.memory && r.actions {
			kept.Action, kept.Taken = kept.TakenAction(), ""
		} else if kept.Taken = ""; len(kept.Action) > slimAction {
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
