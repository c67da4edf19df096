package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/envs"
)

// maxReplays bounds how often one action's failure is met by playing the
// episode again. An action that kills every JVM loses its episode only.
const maxReplays = 3

// errDiverged: a replayed episode went another way, so it cannot go on.
var errDiverged = errors.New("the replayed episode differs from what the policy saw")

// An episode is one play of a variant. It borrows an instance until Close. The
// order of calls is held by [envs.Guard].
type episode struct {
	family *Family
	variant
	inst   *instance // nil after a failed replacement
	played []turn    // all actions so far, with what came of them
	last   record
}

// A turn is what a replay needs: the policy's text and the answer to it.
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

// step translates a record. The Python package's done is the union of the
// three conditions without the limit on actions.
func (e *episode) step(rec record, reward int, taken string) envs.Step {
	c := e.family.config
	s := envs.Step{
		Reward: float64(reward), Score: float64(rec.score), Success: rec.completed && rec.score == 100,
		Terminated: rec.completed || rec.score < 0,
	}
	actions := len(e.played) - 1 // the first turn is the reset
	s.Truncated = !s.Terminated && (rec.moves > c.StepLimit || c.MaxActions > 0 && actions >= c.MaxActions)
	s.Observation.Feedback = rec.observation
	if taken != "" && c.Actions == ActClosest {
		s.Observation.Feedback = "(understood as: " + taken + ")\n" + rec.observation
	}
	if strings.TrimSpace(rec.observation) == strings.TrimSpace(rec.look) {
		s.Observation.Feedback = "" // the state says the same
	}
	if !s.Done() {
		s.Observation.State = rec.situation()
	}
	return s
}

// situation is the text of the state: the surroundings and what is carried.
func (r record) situation() string { return r.look + "\n" + r.inventory }

// Close implements [envs.Episode]. The simulator goes back to the pool; the
// next episode's load wipes it.
func (e *episode) Close() error {
	if e.inst != nil {
		e.family.pool.release(e.inst)
		e.inst = nil
	}
	return nil
}

// begin loads the variant and makes the first look around.
func (e *episode) begin(ctx context.Context) (record, error) {
	sim := e.inst.simulator
	if err := sim.load(ctx, e.task, e.variation, e.family.config.Simplifications); err != nil {
		return record{}, err
	}
	rec, err := sim.restart(ctx)
	if err == nil && rec.taskDesc == "" { // lazy reads leave it out
		rec.taskDesc, err = callAs[string](ctx, sim, "freeActionTaskDesc")
	}
	return rec, err
}

// attempt runs f. If that breaks the simulator, it plays the episode again up
// to here on another one and runs f there.
func (e *episode) attempt(ctx context.Context, f func() (record, string, error)) (record, string, error) {
	if e.inst == nil {
		return record{}, "", errors.New("the episode has no simulator any more")
	}
	rec, taken, err := f()
	for replays := 0; err != nil && e.inst.broken() && ctx.Err() == nil && replays < maxReplays; replays++ {
		e.family.config.Log.Warn().Str("env", Name).Str("task", e.variant.String()).
			Int("actions", max(0, len(e.played)-1)).Err(err).Msg("simulator lost, playing the episode again")
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

// replay takes another instance and repeats all actions so far on it. The
// answers must be those that the policy has seen.
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

func (e *episode) repeat(ctx context.Context, i int, action string) (record, error) {
	if i == 0 {
		return e.begin(ctx)
	}
	rec, _, err := perform(ctx, e.inst.simulator, e.family.config.Actions, action)
	return rec, err
}

// same compares all that the policy or the score depends on.
func (r record) same(o record) bool {
	return r.observation == o.observation && r.raw == o.raw && r.completed == o.completed &&
		r.moves == o.moves && r.look == o.look && r.inventory == o.inventory
}
