package remotetest

import (
	"crypto/sha256"
	"fmt"
)

// A World is the environment behind the fake servers. Its text depends on its seed
// and on all actions so far. An episode has [WorldSteps] actions.
type World struct {
	seed  uint64
	steps int
	past  [sha256.Size]byte
}

// WorldSteps is the number of actions in an episode of a [World].
const WorldSteps = 5

// NewWorld starts an episode.
func NewWorld(seed uint64) *World { return &World{seed: seed} }

// Text is the current observation.
func (w *World) Text() string {
	return fmt.Sprintf("room %d of house %d, north gate %x", w.steps, w.seed, w.past[:2])
}

// Act performs an action. The last action of the episode has the reward 1.
func (w *World) Act(action string) (reward float64, done bool) {
	w.past = sha256.Sum256(append(w.past[:], action...))
	w.steps++
	if w.steps == WorldSteps {
		return 1, true
	}
	return 0, false
}
