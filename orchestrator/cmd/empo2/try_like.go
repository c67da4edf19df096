package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/view"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
)

// A likeness is what a stored episode was played with.
type likeness struct {
	task   envs.Task
	seed   uint64
	recall rollout.RecallFunc // nil: without tips
	prompt *prompt.Template   // of its step; nil: it was not recorded
}

// like reads the episode that --like names. The source gets the version that sampled
// it, unless the user named another one.
func (cmd *tryCmd) like(ctx context.Context, s *source) (*likeness, error) {
	if cmd.Like == "" {
		return nil, nil
	}
	place, err := view.ParsePlace(cmd.Like)
	if err != nil || !place.One() {
		return nil, &config.Error{Place: "--like " + cmd.Like, Msg: "is no episode",
			Hint: "write STEP/GROUP/EPISODE, for example 12/3/0"}
	}
	stored, err := s.run.Episodes(ctx, place.Step)
	if err != nil {
		return nil, err
	}
	for _, e := range stored {
		if e.Group != place.Group || e.Episode != place.Episode {
			continue
		}
		t, err := orchestrator.EpisodeOf(e)
		if err != nil {
			return nil, err
		}
		if _, named, _ := splitTarget(cmd.Target); named == newest {
			s.version = t.Policy.Version
		}
		out := &likeness{task: t.Task, seed: t.Seed, recall: recallAgain(t)}
		out.prompt, err = promptOfStep(ctx, s, place.Step)
		return out, err
	}
	return nil, &config.Error{Place: "--like " + cmd.Like, Msg: "no such training episode",
		Hint: fmt.Sprintf("empo2 show %s %d lists the episodes of the step", safetext.Argument(s.run.Dir),
			place.Step)}
}

// recallAgain recalls in each state the tips that an episode saw there. In a state
// that the episode did not visit it recalls all that it saw.
func recallAgain(t rollout.Trajectory) rollout.RecallFunc {
	if !t.Memory {
		return nil
	}
	var all []prompt.Tip
	for _, turn := range t.Turns {
		all = append(all, turn.Tips...)
	}
	return func(_ context.Context, q rollout.Query) (rollout.Recalled, error) {
		i := slices.IndexFunc(t.Turns, func(turn rollout.Turn) bool { return turn.Observation.State == q.State })
		if i < 0 {
			return rollout.Recalled{Tips: all}, nil
		}
		return rollout.Recalled{Tips: t.Turns[i].Tips, Similar: t.Turns[i].Similar}, nil
	}
}

// promptOfStep returns the prompt template that a step was sampled with.
func promptOfStep(ctx context.Context, s *source, step int64) (*prompt.Template, error) {
	text, err := s.run.Plan(ctx, step)
	if err != nil || text == nil {
		return nil, err
	}
	var plan orchestrator.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return nil, fmt.Errorf("plan of step %d in run.db: %w", step, err)
	}
	if plan.Prompt == "" { // written before prompts were recorded
		return nil, nil
	}
	recorded, err := s.run.Prompt(ctx, plan.Prompt)
	if err != nil {
		return nil, err
	}
	out, err := prompt.Parse(fmt.Sprintf("of step %d", step), recorded)
	return &out, err
}
