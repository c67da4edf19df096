package exchangetest

import (
	"fmt"
	"hash/fnv"
)

// A World is the environment behind the servers of tests: what it shows depends
// on its seed and on every action so far, and it is over after five actions.
type World struct {
	seed  uint64
	steps int
	state uint64
}

// WorldSteps is the number of actions in an episode of a [World].
const WorldSteps = 5

// NewWorld begins an episode.
func NewWorld(seed uint64) *World { return &World{seed: seed, state: seed} }

// Text is what there is to see.
func (w *World) Text() string {
	return fmt.Sprintf("room %d of house %d, north gate %x", w.steps, w.seed, w.state%0xffff)
}

// Act does an action; the last one is rewarded.
func (w *World) Act(action string) (reward float64, done bool) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", w.state, action)
	w.state = h.Sum64()
	w.steps++
	if w.steps == WorldSteps {
		return 1, true
	}
	return 0, false
}
