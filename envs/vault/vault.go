// Package vault is the embedded environment: a corridor of locked doors.
//
// At each of K doors hang M levers; one opens the door, a wrong one ends the
// walk. Which lever opens which door is the hidden rule of a house, drawn from
// a seed. A blind walk reaches the exit with probability M^-K, so reward alone
// says nothing at first; a tip written after a failed walk, however, says
// something about every door that the walk has seen. The environment needs no
// other process and takes microseconds, and every random choice is fixed by
// the house and the number of the variation.
package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
)

// Score says when a walk is paid.
type Score string

const (
	// Sparse pays 1 at the exit and nothing before it.
	Sparse Score = "sparse"
	// Partial pays 1/K for every opened door.
	Partial Score = "partial"
)

// Config describes the worlds of a [Family]. No field may be zero except
// TestVariations.
type Config struct {
	Houses []uint64 // seeds; each is one house with its own hidden rule
	Doors  int      // K, doors of a walk: 1 to 8
	Levers int      // M, levers listed at a door: 2 to 12
	Score  Score
	// Variations 0..TrainVariations-1 of every house are the splits train and
	// eval; the TestVariations after them are the split test: the same rule
	// behind other lists of levers.
	TrainVariations int
	TestVariations  int
}

const maxVariations = 1 << 20

func (c Config) validate() error {
	f := func(ok bool, format string, args ...any) error {
		if ok {
			return nil
		}
		return fmt.Errorf("vault: "+format, args...)
	}
	sorted := slices.Sorted(slices.Values(c.Houses))
	for _, err := range []error{
		f(len(c.Houses) > 0, "no house is given; name at least one seed"),
		f(len(slices.Compact(sorted)) == len(c.Houses), "a house is named twice in %v", c.Houses),
		f(c.Doors >= 1 && c.Doors <= houseDoors, "doors = %d, want 1 to %d", c.Doors, houseDoors),
		f(c.Levers >= 2 && c.Levers <= houseLevers, "levers = %d, want 2 to %d", c.Levers, houseLevers),
		f(c.Score == Sparse || c.Score == Partial, "score = %q, want %q or %q", c.Score, Sparse, Partial),
		f(c.TrainVariations >= 1 && c.TrainVariations <= maxVariations,
			"train variations = %d, want 1 to %d", c.TrainVariations, maxVariations),
		f(c.TestVariations >= 0 && c.TestVariations <= maxVariations,
			"test variations = %d, want 0 to %d", c.TestVariations, maxVariations),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

// A Family opens walks through the houses of its Config. It implements
// [envs.Family] and holds nothing that needs releasing.
type Family struct {
	config Config
	houses map[uint64]house
	train  []envs.Task
	test   []envs.Task
	places map[string]place // by task id
}

type place struct{ house, variation uint64 }

var _ envs.Family = (*Family)(nil)

// Open builds the houses of a Config.
func Open(c Config) (*Family, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	f := &Family{
		config: c,
		houses: make(map[uint64]house, len(c.Houses)),
		places: make(map[string]place),
	}
	f.config.Houses = slices.Clone(c.Houses)
	for _, seed := range c.Houses {
		f.houses[seed] = newHouse(seed)
		for v := range c.TrainVariations + c.TestVariations {
			task := f.addTask(place{seed, uint64(v)})
			if v < c.TrainVariations {
				f.train = append(f.train, task)
			} else {
				f.test = append(f.test, task)
			}
		}
	}
	return f, nil
}

func (f *Family) addTask(p place) envs.Task {
	id := fmt.Sprintf("house-%d/variation-%d", p.house, p.variation)
	f.places[id] = p
	return envs.Task{
		ID:          id,
		Scope:       id, // tips are kept per variation, as the levers listed differ
		Seed:        p.house,
		Instruction: instruction,
		Reflection:  reflection,
	}
}

// Name implements [envs.Family].
func (f *Family) Name() string { return "vault" }

// Tasks implements [envs.Family]: house by house, variation by variation.
func (f *Family) Tasks(split envs.Split) ([]envs.Task, error) {
	switch split {
	case envs.Train, envs.Eval:
		return slices.Clone(f.train), nil
	case envs.Test:
		return slices.Clone(f.test), nil
	}
	return nil, fmt.Errorf("vault: unknown split %q, want %s, %s or %s",
		split, envs.Train, envs.Eval, envs.Test)
}

// Open implements [envs.Family].
func (f *Family) Open(ctx context.Context, t envs.Task) (envs.Episode, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	c, err := f.corridor(t)
	if err != nil {
		return nil, err
	}
	return envs.Guard(&walk{corridor: c, partial: f.config.Score == Partial}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error { return nil }

// Solve returns the K actions that walk t to its exit. The policy never sees
// them; the exact success probability of a policy is the product of the
// probabilities that it gives to each of them after the ones before.
func (f *Family) Solve(t envs.Task) ([]string, error) {
	c, err := f.corridor(t)
	if err != nil {
		return nil, err
	}
	actions := make([]string, len(c.right))
	for i, lever := range c.right {
		actions[i] = "pull " + lever
	}
	return actions, nil
}

func (f *Family) corridor(t envs.Task) (corridor, error) {
	p, ok := f.places[t.ID]
	if !ok {
		return corridor{}, fmt.Errorf("vault: unknown task %q; its houses are %s",
			t.ID, strings.Trim(fmt.Sprint(f.config.Houses), "[]"))
	}
	return f.houses[p.house].corridor(p.variation, f.config.Doors, f.config.Levers), nil
}
