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
	open    bool // counts for the concurrency of the family
	prompt  bool // for the test at start: a lost connection is not retried
	session *session
	turns   turns.Turns
}

// Reset implements [envs.Episode]. It is repeated in a new session if the session
// is lost before the prompt, or if the server is full.
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

// again reports whether a reset may be repeated.
func (e *episode) again(f *jsonhttp.Error) bool {
	return f.Kind == jsonhttp.Busy || !e.prompt && (f.Uncertain() || f.Kind == jsonhttp.Unreached)
}

// begin opens a session and reads the prompt. It makes one attempt.
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

// Step implements [envs.Episode]. A mistake of the policy (a malformed tool call,
// or input that the tool refuses) is answered with feedback and without a reward.
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	c, reason := e.family.actions.call(action)
	if reason != "" {
		return e.turns.Refused(reason), nil
	}
	r, err := e.session.call(ctx, c)
	message, refused := exchange.RefusesAction(err, "task_id")
	switch {
	case refused:
		return e.turns.Refused(message), nil
	case err != nil:
		return envs.Step{}, err
	case r.exception:
		return e.turns.MaybeRefused(r.Error)
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
		e.family.concurrency.Release(1)
	}
	return nil
}

func (e *episode) end() {
	if e.session != nil {
		e.session.close()
		e.session = nil
	}
}

// blocks are the texts and images of a prompt or an answer (types.py).
type blocks []struct{ Type, Text, MimeType string }

// text returns the texts of the blocks, one per line. An image is replaced by a
// note.
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
