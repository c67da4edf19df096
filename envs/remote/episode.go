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

// closeTimeout is the deadline of the call that ends an unfinished episode.
const closeTimeout = 5 * time.Second

type episode struct {
	family *Family
	seed   uint64
	open   bool // counts for the concurrency of the family
	prompt bool // for the test at start: a lost connection is not retried
	id     json.RawMessage
	over   bool // the server has ended it
	turns  turns.Turns
}

// Reset implements [envs.Episode]. It is repeated after a lost connection, because
// the only harm is an unused episode on the server.
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
	o.Feedback = "" // there was no action yet
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
		e.family.concurrency.Release(1)
	}
	return nil
}

// end ends an unfinished episode on the server. The route is optional, so a failure
// is only logged.
func (e *episode) end() {
	if e.id == nil || e.over {
		return
	}
	late := fmt.Errorf("no answer to /close within %v", closeTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), closeTimeout, late)
	defer cancel()
	_, err := e.family.client.Do(ctx, exchange.Request{Path: "/close", Body: map[string]any{"id": e.id}, Prompt: true})
	var f *jsonhttp.Error
	if err != nil && !(errors.As(err, &f) && f.Status == http.StatusNotFound) {
		c := e.family.config
		c.Log.Debug().Err(err).Str("env", c.Name).Msg("remote: the episode was not ended on the server")
	}
}
