package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// farewell bounds the call that tells a server of an abandoned episode.
const farewell = 5 * time.Second

type episode struct {
	family *Family
	seed   uint64
	open   bool // holds a slot of the family
	prompt bool // the trial: an unreachable server is an error at once
	id     json.RawMessage
	over   bool // the server has ended it
	turns  turns.Turns
}

// Reset implements [envs.Episode]. Asking twice leaves at most an abandoned
// episode behind, so it is asked again after a lost connection.
func (e *episode) Reset(ctx context.Context) (envs.Observation, error) {
	raw, err := e.family.client.Do(ctx, exchange.Request{
		Path: "/reset", Repeatable: true, Prompt: e.prompt,
		Body: map[string]any{"seed": e.seed, "options": e.family.config.Options},
	})
	if err != nil {
		return envs.Observation{}, hinted(err)
	}
	var answer resetAnswer
	if err := read(raw, "/reset", &answer); err != nil {
		return envs.Observation{}, err
	}
	e.id = answer.ID
	o := e.turns.First(answer.Observation.State)
	o.Feedback = "" // nothing has been done yet
	return o, nil
}

// Step implements [envs.Episode].
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	raw, err := e.family.client.Do(ctx, exchange.Request{
		Path: "/step", Body: map[string]any{"id": e.id, "action": action},
	})
	if message, refused := exchange.RefusesAction(err, "id"); refused {
		return e.turns.Refused(message), nil
	}
	if err != nil {
		return envs.Step{}, err
	}
	var answer stepAnswer
	if err := read(raw, "/step", &answer); err != nil {
		return envs.Step{}, err
	}
	step, err := e.turns.Next(answer.turn())
	if err != nil {
		return envs.Step{}, fmt.Errorf("POST /step: %w", err)
	}
	e.over = step.Done()
	return step, nil
}

// Close implements [envs.Episode].
func (e *episode) Close() error {
	e.end()
	if e.open {
		e.family.slots.Release(1)
	}
	return nil
}

// end tells the server that a running episode is abandoned. A server need not
// listen, so that a failure is only noted.
func (e *episode) end() {
	if e.id == nil || e.over {
		return
	}
	late := fmt.Errorf("no answer to /close within %v", farewell)
	ctx, cancel := context.WithTimeoutCause(context.Background(), farewell, late)
	defer cancel()
	_, err := e.family.client.Do(ctx, exchange.Request{Path: "/close", Body: map[string]any{"id": e.id}, Prompt: true})
	var f *jsonhttp.Error
	if err != nil && !(errors.As(err, &f) && f.Status == http.StatusNotFound) {
		e.family.config.Log.Debug().Err(err).Str("env", e.family.config.Name).Msg("environment server: episode abandoned")
	}
}
