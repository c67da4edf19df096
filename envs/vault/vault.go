// Package vault is the built-in environment: a corridor of locked doors.
//
// Each of K doors has M levers. One lever opens the door, and a wrong lever ends
// the episode. The hidden rule of a house says which lever opens which door. It is
// drawn from a seed. A random policy reaches the exit with probability M^-K, so at
// first there is no reward to learn from. But a tip after a failed episode has
// information about every door of that episode.
//
// The environment needs no other process, and a step takes microseconds. The house
// and the number of the variation determine every random choice.
//
// Read house.go for the rule and the corridors, corridor_episode.go for an episode,
// and words.go for the texts.
package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs"
)

// Score says when an episode gets its reward.
type Score string

const (
	// Sparse gives the reward 1 at the exit and 0 before it.
	Sparse Score = "sparse"
	// Partial gives the reward 1/K for every opened door.
	Partial Score = "partial"
)

// Config describes a [Family]. Only TestVariations may be zero.
type Config struct {
	Houses []uint64 // seeds; each is one house with its own hidden rule
	Doors  int      // K, doors of an episode: 1 to 8
	Levers int      // M, levers at a door: 2 to 12
	Score  Score
	// Variations 0..TrainVariations-1 of every house are the splits train and
	// eval. The next TestVariations are the split test. They have the same rule
	// and other lists of levers.
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
		f(len(c.Houses) > 0, "there is no house\n  hint: give one seed or more"),
		f(len(slices.Compact(sorted)) == len(c.Houses), "a house is given twice in %v", c.Houses),
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

// A Family opens episodes in the houses of its Config. It implements
// [envs.Family].
type Family struct {
	config Config
	houses map[uint64]house
	train  []envs.Task
	test   []envs.Task
	tasks  map[string]variation // by task id
}

// A variation is one corridor of a house.
type variation struct{ house, number uint64 }

var _ envs.Family = (*Family)(nil)

// Open builds the houses of a Config.
func Open(c Config) (*Family, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	f := &Family{
		config: c,
		houses: make(map[uint64]house, len(c.Houses)),
		tasks:  make(map[string]variation),
	}
	f.config.Houses = slices.Clone(c.Houses)
	for _, seed := range c.Houses {
		f.houses[seed] = newHouse(seed)
		for v := range c.TrainVariations + c.TestVariations {
			task := f.addTask(variation{seed, uint64(v)})
			if v < c.TrainVariations {
				f.train = append(f.train, task)
			} else {
				f.test = append(f.test, task)
			}
		}
	}
	return f, nil
}

func (f *Family) addTask(v variation) envs.Task {
	id := fmt.Sprintf("house-%d/variation-%d", v.house, v.number)
	f.tasks[id] = v
	return envs.Task{
		ID:          id,
		Scope:       id, // one list of tips per variation, as the levers differ
		Seed:        v.house,
		Instruction: instruction,
		Reflection:  reflection,
	}
}

// Name implements [envs.Family].
func (f *Family) Name() string { return "vault" }

// Tasks implements [envs.Family]. It lists the variations, house by house.
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
	return envs.Guard(&episode{corridor: c, partial: f.config.Score == Partial}), nil
}

// Close implements [envs.Family].
func (f *Family) Close() error { return nil }

// Solve implements [envs.Solver]: it returns the K actions that solve t. The exact
// success probability of a policy is the product of the probabilities of these
// actions, each given the actions before it.
func (f *Family) Solve(_ context.Context, t envs.Task) ([]string, error) {
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
	v, ok := f.tasks[t.ID]
	if !ok {
		return corridor{}, fmt.Errorf("vault: unknown task %q\n  hint: the houses are %s",
			t.ID, strings.Trim(fmt.Sprint(f.config.Houses), "[]"))
	}
	return f.houses[v.house].corridor(v.number, f.config.Doors, f.config.Levers), nil
}
