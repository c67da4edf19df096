package vault

import (
	"context"
	"slices"

	"github.com/empo2/empo2/envs"
)

// A walk is one episode. It is used behind [envs.Guard].
type walk struct {
	corridor corridor
	partial  bool
	opened   int // doors opened so far, the index of the door ahead
}

// Reset implements [envs.Episode].
func (w *walk) Reset(context.Context) (envs.Observation, error) {
	return envs.Observation{State: w.state()}, nil
}

// Step implements [envs.Episode]. An unlisted lever and a malformed action
// are the same to a door.
func (w *walk) Step(_ context.Context, action string) (envs.Step, error) {
	lever := pulled(action)
	switch {
	case lever == w.corridor.right[w.opened]:
		return w.open(), nil
	case slices.Contains(w.corridor.listed[w.opened], lever):
		return w.end(alarm), nil
	default:
		return w.end(inert), nil
	}
}

// Close implements [envs.Episode].
func (w *walk) Close() error { return nil }

func (w *walk) open() envs.Step {
	w.opened++
	step := envs.Step{Score: w.score()}
	if w.partial {
		step.Reward = 1 / float64(len(w.corridor.doors))
	}
	if w.opened < len(w.corridor.doors) {
		step.Observation = envs.Observation{Feedback: opens, State: w.state()}
		return step
	}
	if !w.partial {
		step.Reward = 1
	}
	step.Observation.Feedback = out
	step.Success, step.Terminated = true, true
	return step
}

// end answers an action that does not open the door ahead. The text shows the
// score in whole points, rounded down.
func (w *walk) end(what string) envs.Step {
	score := w.score()
	return envs.Step{
		Observation: envs.Observation{Feedback: overText(what, int(score))},
		Score:       score,
		Terminated:  true,
	}
}

// score is 100 at the exit and, if it is partial, 100/K per opened door.
func (w *walk) score() float64 {
	doors := len(w.corridor.doors)
	if !w.partial && w.opened < doors {
		return 0
	}
	return float64(100*w.opened) / float64(doors)
}

func (w *walk) state() string {
	i, doors := w.opened, w.corridor.doors
	return stateText(w.corridor.listed[i], i+1, len(doors), doors[i])
}
