package vault

import (
	"context"
	"slices"

	"github.com/empo2/empo2/envs"
)

// An episode is used behind [envs.Guard].
type episode struct {
	corridor corridor
	partial  bool
	opened   int // number of opened doors, and the index of the current door
}

// Reset implements [envs.Episode].
func (e *episode) Reset(context.Context) (envs.Observation, error) {
	return envs.Observation{State: e.state()}, nil
}

// Step implements [envs.Episode]. A lever that is not listed is answered like a
// malformed action.
func (e *episode) Step(_ context.Context, action string) (envs.Step, error) {
	lever := pulled(action)
	switch {
	case lever == e.corridor.right[e.opened]:
		return e.open(), nil
	case slices.Contains(e.corridor.listed[e.opened], lever):
		return e.end(alarm), nil
	default:
		step := e.end(inert)
		step.Invalid = true
		return step, nil
	}
}

// Close implements [envs.Episode].
func (e *episode) Close() error { return nil }

func (e *episode) open() envs.Step {
	e.opened++
	step := envs.Step{Score: e.score()}
	if e.partial {
		step.Reward = 1 / float64(len(e.corridor.doors))
	}
	if e.opened < len(e.corridor.doors) {
		step.Observation = envs.Observation{Feedback: opens, State: e.state()}
		return step
	}
	if !e.partial {
		step.Reward = 1
	}
	step.Observation.Feedback = out
	step.Success, step.Terminated = true, true
	return step
}

// end answers an action that does not open the current door. The text has the
// score in whole points, rounded down.
func (e *episode) end(result string) envs.Step {
	score := e.score()
	return envs.Step{
		Observation: envs.Observation{Feedback: overText(result, int(score))},
		Score:       score,
		Terminated:  true,
	}
}

// score is 100 at the exit. With partial scores it is 100/K per opened door.
func (e *episode) score() float64 {
	doors := len(e.corridor.doors)
	if !e.partial && e.opened < doors {
		return 0
	}
	return float64(100*e.opened) / float64(doors)
}

func (e *episode) state() string {
	i, doors := e.opened, e.corridor.doors
	return stateText(e.corridor.listed[i], i+1, len(doors), doors[i])
}
