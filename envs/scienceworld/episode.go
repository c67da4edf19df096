package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/envs"
)

// maxReplays is how often an episode is replayed after one action has failed. An
// action that breaks every JVM loses only its own episode.
const maxReplays = 3

// errDiverged is the error of a replayed episode with other answers. It cannot
// continue.
var errDiverged = errors.New("the replayed episode has other answers than the policy saw")

// An episode is one attempt at a variant. It uses an instance until Close. The order
// of calls is enforced by [envs.Guard].
type episode struct {
	family *Family
	variant
	inst   *instance // nil after a failed replacement
	played []turn    // all turns so far; the first is the reset
	last   record
}

// A turn is the policy's text and the simulator's answer. A replay needs both.
type turn struct {
	action string
	rec    record
}

var _ envs.Episode = (*episode)(nil)

// Reset implements [envs.Episode].
func (e *episode) Reset(ctx context.Context) (envs.Observation, error) {
	rec, _, err := e.attempt(ctx, func() (record, string, error) {
		rec, err := e.begin(ctx)
		return rec, "", err
	})
	if err != nil {
		return envs.Observation{}, fmt.Errorf("scienceworld %s: reset: %w", e.variant, err)
	}
	e.last = rec
	e.played = append(e.played, turn{rec: rec})
	return envs.Observation{State: rec.taskDesc + "\n\n" + rec.situation()}, nil
}

// Step implements [envs.Episode].
func (e *episode) Step(ctx context.Context, action string) (envs.Step, error) {
	rec, taken, err := e.attempt(ctx, func() (record, string, error) {
		return perform(ctx, e.inst.simulator, e.family.config.Actions, action)
	})
	if err != nil {
		return envs.Step{}, fmt.Errorf("scienceworld %s: action %d: %w", e.variant, len(e.played), err)
	}
	reward := rec.score - e.last.score
	e.last = rec
	e.played = append(e.played, turn{action, rec})
	return e.step(rec, reward, taken), nil
}

// step makes a step of a record. The Python package's done is true in the same cases,
// except for MaxActions.
func (e *episode) step(rec record, reward int, taken string) envs.Step {
	c := e.family.config
	s := envs.Step{
		Reward: float64(reward), Score: float64(rec.score), Success: rec.completed && rec.score == 100,
		Terminated: rec.completed || rec.score < 0, Invalid: rec.observation == unknownInput,
	}
	actions := len(e.played) - 1 // the first turn is the reset
	s.Truncated = !s.Terminated && (rec.moves > c.StepLimit || c.MaxActions > 0 && actions >= c.MaxActions)
	s.Observation.Feedback = rec.observation
	if taken != "" && c.Actions == ActClosest {
		s.Observation.Feedback = "(understood as: " + taken + ")\n" + rec.observation
	}
	if strings.TrimSpace(rec.observation) == strings.TrimSpace(rec.look) {
		s.Observation.Feedback = "" // the state has the same text
	}
	if !s.Done() {
		s.Observation.State = rec.situation()
	}
	return s
}

// situation is the text of the state: the surroundings and the inventory.
func (r record) situation() string { return r.look + "\n" + r.inventory }

// Close implements [envs.Episode]. The simulator returns to the pool. The next
// episode resets it by loading a task.
func (e *episode) Close() error {
	if e.inst != nil {
		e.family.pool.release(e.inst)
		e.inst = nil
	}
	return nil
}

// begin loads the variant and looks around.
func (e *episode) begin(ctx context.Context) (record, error) {
	sim := e.inst.simulator
	if err := sim.load(ctx, e.task, e.variation, e.family.config.Simplifications); err != nil {
		return record{}, err
	}
	rec, err := sim.restart(ctx)
	if err == nil && rec.taskDesc == "" { // ReadLazy does not read it
		rec.taskDesc, err = callAs[string](ctx, sim, "freeActionTaskDesc")
	}
	return rec, err
}

// attempt runs f. If this breaks the simulator, it replays the episode on another
// simulator and runs f there.
func (e *episode) attempt(ctx context.Context, f func() (record, string, error)) (record, string, error) {
	if e.inst == nil {
		return record{}, "", errors.New("the episode has lost its simulator")
	}
	rec, taken, err := f()
	for replays := 0; err != nil && e.inst.broken() && ctx.Err() == nil && replays < maxReplays; replays++ {
		e.family.config.Log.Warn().Str("env", Name).Str("task", e.variant.String()).
			Int("actions", max(0, len(e.played)-1)).Err(err).Msg("simulator lost, replaying the episode")
		if again := e.replay(ctx); again != nil {
			if e.inst == nil || errors.Is(again, errDiverged) {
				return record{}, "", errors.Join(err, again)
			}
			err = again
			continue
		}
		rec, taken, err = f()
	}
	return rec, taken, err
}

// replay takes another instance and repeats all actions so far. The answers must be
// the same as before.
func (e *episode) replay(ctx context.Context) error {
	fresh, err := e.family.pool.replace(ctx, e.inst)
	e.inst = fresh
	if err != nil {
		return fmt.Errorf("replace the simulator: %w", err)
	}
	for i, t := range e.played {
		rec, err := e.repeat(ctx, i, t.action)
		if err != nil {
			return fmt.Errorf("replay action %d: %w", i, err)
		}
		if !rec.same(t.rec) {
			return fmt.Errorf("replay action %d: %w", i, errDiverged)
		}
	}
	return nil
}

// repeat performs turn i again.
func (e *episode) repeat(ctx context.Context, i int, action string) (record, error) {
	if i == 0 {
		return e.begin(ctx)
	}
	rec, _, err := perform(ctx, e.inst.simulator, e.family.config.Actions, action)
	return rec, err
}

// same compares everything that the policy or the score depends on.
func (r record) same(o record) bool {
	return r.observation == o.observation && r.raw == o.raw && r.completed == o.completed &&
		r.moves == o.moves && r.look == o.look && r.inventory == o.inventory
}
