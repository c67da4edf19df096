package demos

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler/chat"
	"github.com/empo2/empo2/sampler/rollout"
)

// Episodes chooses the episodes of a run to make demonstrations from.
type Episodes struct {
	Env       string
	Ledger    *ledger.Ledger
	MinReturn *float64 // least return of the environment; nil: the episode must have succeeded
	// WithoutTips renders all prompts without tips. Otherwise they are as they were
	// sampled.
	WithoutTips bool
}

// Collect returns the demonstrations, the newest first. Of equal conversations it
// returns one. It leaves out and counts episodes of which a reply has no text, since a
// warm start refuses them.
func (e Episodes) Collect(ctx context.Context) (all []Demonstration, empty int, err error) {
	last, err := e.Ledger.Last(ctx)
	if err != nil {
		return nil, 0, err
	}
	seen := map[string]bool{}
	for step := last.Step; step > 0; step-- {
		stored, err := e.Ledger.Episodes(ctx, step)
		if err != nil {
			return nil, 0, err
		}
		for _, s := range stored {
			if !e.wanted(s) {
				continue
			}
			t, err := rollout.Unpack(rollout.Packed{JSON: s.Trajectory, Tokens: s.Tokens, Logprobs: s.Logprobs})
			if err != nil {
				return nil, 0, fmt.Errorf("episode %d/%d of step %d in run.db: %w", s.Group, s.Episode, step, err)
			}
			d := e.demonstration(t)
			key, err := json.Marshal(d.Messages)
			if err != nil {
				return nil, 0, err
			}
			if len(t.Turns) == 0 || t.Slim || seen[string(key)] {
				continue
			}
			seen[string(key)] = true
			if d.check() != nil {
				empty++
				continue
			}
			all = append(all, d)
		}
	}
	return all, empty, nil
}

func (e Episodes) wanted(s ledger.Episode) bool {
	if e.MinReturn == nil {
		return s.Success
	}
	return s.EnvReturn >= *e.MinReturn
}

// demonstration is the conversation of an episode.
func (e Episodes) demonstration(t rollout.Trajectory) Demonstration {
	d := Demonstration{Source: &Source{Env: e.Env, Task: t.Task.ID, Score: t.Score, Success: t.Success}}
	for _, turn := range t.Turns {
		for _, m := range turn.Prompt {
			if e.WithoutTips {
				m = m.WithoutTips()
			}
			d.Source.Tips = d.Source.Tips || m.HasTips()
			d.add(m)
		}
		d.Messages = append(d.Messages, Message{Role: chat.RoleAssistant, Content: cmp.Or(turn.Text, turn.Action)})
	}
	return d
}
