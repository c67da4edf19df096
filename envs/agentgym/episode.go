package agentgym

import (
	"context"
	"fmt"
	"maps"
	"regexp"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/turns"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

type episode struct {
	family *Family
	task   uint64
	open   bool // counts for the concurrency of the family
	id     int64
	lent   bool // id is an environment of the pool
	usable bool // the environment can be used for another episode
	turns  turns.Turns
}

// Reset implements [envs.Episode]. A restarted server does not know the
// environments of the pool. Then Reset creates a new one, once.
func (e *episode) Reset(ctx context.Context) (envs.Observation, error) {
	used, err := e.take(ctx)
	if err != nil {
		return envs.Observation{}, err
	}
	text, err := e.reset(ctx)
	if err != nil && used && ctx.Err() == nil {
		e.release()
		if _, err := e.takeNew(ctx); err != nil {
			return envs.Observation{}, err
		}
		text, err = e.reset(ctx)
	}
	if err != nil {
		return envs.Observation{}, err
	}
	e.usable = true
	return e.turns.First(text), nil
}

func (e *episode) take(ctx context.Context) (used bool, err error) {
	e.id, used, err = e.family.pool.take(ctx)
	e.lent, e.usable = err == nil, false
	return used, err
}

// takeNew drops the idle environments of the pool and creates a new one.
func (e *episode) takeNew(ctx context.Context) (used bool, err error) {
	for {
		used, err = e.take(ctx)
		if err != nil || !used {
			return used, err
		}
		e.release()
	}
}

// reset loads the task. It may be repeated.
func (e *episode) reset(ctx context.Context) (string, error) {
	d := e.family.dialect
	body := map[string]any{d.id: e.id, d.index: e.task}
	maps.Copy(body, d.also)
	raw, err := e.family.client.Do(ctx, exchange.Request{Path: d.prefix + "/reset", Body: body, Repeatable: true})
	if err != nil {
		return "", fmt.Errorf("task %d: %w", e.task, err)
	}
	text, err := d.first(raw)
	if err != nil {
		return "", fmt.Errorf("task %d: POST %s/reset: %w", e.task, d.prefix, err)
	}
	return text, nil
}

// Step implements [envs.Episode]. It is not repeated after a lost connection, as
// the server may have performed the action.
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	e.usable = false
	step, err := e.step(ctx, action)
	e.usable = err == nil
	return step, err
}

func (e *episode) step(ctx context.Context, action string) (envs.Step, error) {
	d := e.family.dialect
	raw, err := e.family.client.Do(ctx, exchange.Request{
		Path: d.prefix + "/step", Body: map[string]any{d.id: e.id, "action": action},
	})
	if message, refused := exchange.RefusesAction(err, d.id); refused {
		return e.turns.Refused(message), nil
	}
	if err != nil {
		return envs.Step{}, err
	}
	if message, found := jsonhttp.ErrorIn(raw); found {
		return e.answerError(message)
	}
	answer, err := d.answer(raw)
	if err != nil {
		return envs.Step{}, fmt.Errorf("POST %s/step: %w", d.prefix, err)
	}
	return e.turns.Next(answer)
}

// gone matches the error of the servers about an unknown environment.
var gone = regexp.MustCompile(`^The (id|task with environment) \d+ `)

// answerError handles an error inside a 200. The servers catch every exception,
// whether the action or a broken environment has caused it.
func (e *episode) answerError(message string) (envs.Step, error) {
	if gone.MatchString(message) {
		return envs.Step{}, fmt.Errorf("the server has lost the environment: %s", message)
	}
	return e.turns.MaybeRefused(message)
}

// Close implements [envs.Episode].
func (e *episode) Close() error {
	e.end()
	if e.open {
		e.family.concurrency.Release(1)
	}
	return nil
}

// end returns a usable environment to the pool and deletes any other.
func (e *episode) end() {
	if e.lent && e.usable {
		e.family.pool.put(e.id)
		e.lent = false
	}
	e.release()
}

// release gives up the environment.
func (e *episode) release() {
	if e.lent {
		e.family.pool.drop(e.id)
		e.lent = false
	}
}
