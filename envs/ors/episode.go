package ors

import (
	"context"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

type episode struct {
	family  *Family
	at      place
	open    bool // holds a slot of the family
	prompt  bool // the trial: a lost connection is an error at once
	session *session
	turns   turns.Turns
}

// Reset implements [envs.Episode]. A session that is lost before the prompt is
// replaced by another, and a full server is waited for.
func (e *episode) Reset(ctx context.Context) (envs.Observation, error) {
	var prompt blocks
	err := e.family.client.Persist(ctx, "reset", e.again, func(ctx context.Context) (err error) {
		prompt, err = e.begin(ctx)
		return err
	})
	if err != nil {
		return envs.Observation{}, err
	}
	return e.turns.First(prompt.text()), nil
}

// again reports whether a reset is worth another attempt.
func (e *episode) again(f *jsonhttp.Error) bool {
	return f.Kind == jsonhttp.Busy || !e.prompt && (f.Uncertain() || f.Kind == jsonhttp.Unreached)
}

func (e *episode) begin(ctx context.Context) (blocks, error) {
	s, err := e.family.newSession(ctx)
	if err != nil {
		return nil, err
	}
	prompt, err := s.begin(ctx, e.at)
	if err != nil {
		s.close()
		return nil, err
	}
	e.session = s
	return prompt, nil
}

// Step implements [envs.Episode]. What the policy got wrong, from text that is
// no tool call to input that the tool refuses, is answered without a reward.
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	c, complaint := e.family.actions.call(action)
	if complaint != "" {
		return e.turns.Refused(complaint), nil
	}
	r, err := e.session.call(ctx, c)
	message, refused := exchange.RefusesAction(err, "task_id")
	switch {
	case refused:
		return e.turns.Refused(message), nil
	case err != nil:
		return envs.Step{}, err
	case r.exception:
		return e.turns.Doubtful(r.Error)
	case !*r.OK:
		return e.turns.Refused(r.Error), nil
	}
	a := turns.Answer{State: r.Output.Blocks.text(), Terminated: r.Output.Finished}
	if r.Output.Reward != nil {
		a.Reward = *r.Output.Reward
	}
	a.Success = a.Terminated && a.Reward > 0
	return e.turns.Next(a)
}

// Close implements [envs.Episode].
func (e *episode) Close() error {
	e.end()
	if e.open {
		e.family.slots.Release(1)
	}
	return nil
}

func (e *episode) end() {
	if e.session != nil {
		e.session.close()
		e.session = nil
	}
}

// blocks are what a prompt or a tool shows: texts and images (types.py).
type blocks []struct{ Type, Text, MimeType string }

// text is that of the blocks, a line each. Images are only named.
func (b blocks) text() string {
	lines := make([]string, len(b))
	for i, block := range b {
		lines[i] = block.Text
		if block.Type != "text" {
			lines[i] = "(" + strings.TrimSpace(block.Type+" "+block.MimeType) + ", which is not supported and not shown)"
		}
	}
	return strings.Join(lines, "\n")
}
