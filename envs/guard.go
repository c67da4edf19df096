package envs

import (
	"context"
	"errors"
	"fmt"
)

// ErrMisuse is the error of an episode behind [Guard] whose methods are called in
// the wrong order.
var ErrMisuse = errors.New("episode is single-use: reset once, then step until done")

// MaxObservation bounds the text of an observation in bytes. It is far above what fits
// into a context.
const MaxObservation = 4 << 20

// Bounded returns an error if an observation is longer than [MaxObservation].
func (o Observation) Bounded() error {
	if n := len(o.Feedback) + len(o.State); n > MaxObservation {
		return fmt.Errorf("an observation of %d bytes, %d allowed", n, MaxObservation)
	}
	return nil
}

// Guard enforces the order of calls that [Episode] demands. A second Reset, a
// Step before Reset, and a Step after the end or after an error return
// [ErrMisuse]. An observation that is too long is an error. A call whose context has
// ended returns the cause and does not reach e.
func Guard(e Episode) Episode { return &guarded{episode: e} }

type guarded struct {
	episode Episode
	phase   phase
}

type phase int

const (
	fresh phase = iota
	running
	over
)

// Reset implements [Episode].
func (g *guarded) Reset(ctx context.Context) (Observation, error) {
	if err := context.Cause(ctx); err != nil {
		return Observation{}, err
	}
	if g.phase != fresh {
		return Observation{}, ErrMisuse
	}
	g.phase = over
	obs, err := g.episode.Reset(ctx)
	if err == nil {
		err = obs.Bounded()
	}
	if err != nil {
		return Observation{}, err
	}
	g.phase = running
	return obs, nil
}

// Step implements [Episode].
func (g *guarded) Step(ctx context.Context, action string) (Step, error) {
	if err := context.Cause(ctx); err != nil {
		return Step{}, err
	}
	if g.phase != running {
		return Step{}, ErrMisuse
	}
	step, err := g.episode.Step(ctx, action)
	if err == nil {
		err = step.Observation.Bounded()
	}
	if err != nil || step.Done() {
		g.phase = over
	}
	return step, err
}

// Close implements [Episode].
func (g *guarded) Close() error {
	g.phase = over
	return g.episode.Close()
}
