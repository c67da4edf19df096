package orchestrator

import (
	"context"
	"errors"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// reserveTip finds out how many tokens an episode has to leave in the server's
// context, so that one that fills it can be reflected upon all the same: those
// that fail in a long way teach the most. Nothing is reserved without a memory,
// for a server of text, whose limits are its own, or if it would be more than
// half of the context.
func (l *Loop) reserveTip(ctx context.Context, plan Plan) error {
	l.tipRoom = 0
	if l.Memory == nil || l.context == 0 || l.Driver.ChatTemplate == nil {
		return nil
	}
	request := 0
	seen := map[string]bool{}
	for _, group := range plan.Groups {
		if seen[group.Task.Reflection] {
			continue
		}
		seen[group.Task.Reflection] = true
		ids, err := l.Driver.ChatTemplate.Extend(ctx, nil, l.Driver.PromptTemplate.Request(group.Task, envs.Observation{}))
		if err != nil {
			return err
		}
		request = max(request, len(ids))
	}
	const glue = 8 // tokens between the last action and the request
	if room := request + glue + l.Config.Reflection.MaxTokens; 2*room <= l.context {
		l.tipRoom = room
	}
	return nil
}

// reflectInRoom reflects on an episode; if what the last action did is too long
// for the context, without it.
func (l *Loop) reflectInRoom(ctx context.Context, t *rollout.Trajectory, by sampler.Policy, s rollout.ReflectSpec) error {
	err := l.Driver.Reflect(ctx, t, by, s)
	if !errors.Is(err, sampler.ErrContextFull) {
		return err
	}
	final := t.Final
	t.Final.Feedback = ""
	err = l.Driver.Reflect(ctx, t, by, s)
	t.Final = final
	return err
}
