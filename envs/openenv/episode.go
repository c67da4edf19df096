package openenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/template"
	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

type episode struct {
	family  *Family
	seed    uint64
	open    bool // counts for the concurrency of the family
	prompt  bool // for the test at start: a lost connection is not retried
	session *session
	turns   turns.Turns
}

// Reset implements [envs.Episode]. It is repeated if the connection is lost before
// the first observation, or if the server is full.
func (e *episode) Reset(ctx context.Context) (envs.Observation, error) {
	var first answer
	err := e.family.client.Persist(ctx, "reset", e.again, func(ctx context.Context) (err error) {
		first, err = e.begin(ctx)
		return err
	})
	if err != nil {
		return envs.Observation{}, err
	}
	text, found := show(first.Data.Observation, e.family.config.Observation)
	if !found {
		fields := strings.Join(slices.Sorted(maps.Keys(first.Data.Observation)), ", ")
		return envs.Observation{}, fmt.Errorf("the observation has none of the paths %q\n  hint: it has the fields %s",
			e.family.config.Observation, fields)
	}
	return e.turns.First(text), nil
}

// again reports whether a reset may be repeated.
func (e *episode) again(f *jsonhttp.Error) bool {
	return f.Kind == jsonhttp.Busy || !e.prompt && (f.Uncertain() || f.Kind == jsonhttp.Unreached)
}

// begin opens a session and resets its environment. It makes one attempt.
func (e *episode) begin(ctx context.Context) (answer, error) {
	s, err := e.family.dial(ctx)
	if err != nil {
		return answer{}, err
	}
	options := map[string]any{}
	maps.Copy(options, e.family.config.Options)
	options["seed"] = e.seed
	first, err := s.ask(ctx, e.family.client.Timeout(), "reset", options)
	switch {
	case err == nil && first.Type == "error":
		err = &jsonhttp.Error{Kind: jsonhttp.Failed, Message: first.Data.Code + ": " + first.errorText()}
	case err == nil && first.Data.Done:
		err = errors.New("the episode ended before its first action")
	}
	if err != nil {
		s.close()
		return answer{}, err
	}
	e.session = s
	return first, nil
}

// Step implements [envs.Episode]. A lost connection loses the episode, as the
// environment belongs to the connection.
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	a, err := e.session.ask(ctx, e.family.client.Timeout(), "step", template.Fill(e.family.config.Action, action))
	switch {
	case err != nil:
		return envs.Step{}, fmt.Errorf("step: %w", err)
	case a.Data.Code == "VALIDATION_ERROR":
		return e.turns.Refused(a.errorText()), nil
	case a.Type == "error":
		return e.turns.MaybeRefused(a.errorText())
	}
	text, _ := show(a.Data.Observation, e.family.config.Observation)
	return e.turns.Next(turns.Answer{
		State: text, Reward: float64(a.Data.Reward), Terminated: a.Data.Done, Success: a.Data.Done && a.Data.Reward > 0,
	})
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
