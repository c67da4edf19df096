package warmstart

import (
	"math"
	"math/rand/v2"
)

// finalShare is the learning rate of the last step, as a share of the highest.
const finalShare = 0.1

// The schedules of the learning rate after the warm-up.
const (
	Cosine   = "cosine"
	Linear   = "linear"
	Constant = "constant"
)

// learningRate is the learning rate of step 1, 2, …: a linear rise over the
// warm-up, then the schedule's decay to a tenth.
func (c Config) learningRate(step int) float64 {
	if step <= c.WarmupSteps {
		return c.LearningRate * float64(step) / float64(c.WarmupSteps)
	}
	// 0 at the first step after the warm-up, 1 at the last one
	done := float64(step-c.WarmupSteps-1) / float64(max(1, c.Steps-c.WarmupSteps-1))
	share := 1.0
	switch c.Schedule {
	case Linear:
		share = 1 - done
	case Cosine:
		share = (1 + math.Cos(math.Pi*done)) / 2
	}
	return c.LearningRate * (finalShare + (1-finalShare)*share)
}

// perEpoch is the number of batches in which all n examples occur once.
func (c Config) perEpoch(n int) int { return (n + c.Batch - 1) / c.Batch }

// batch returns the numbers of the examples of a step. Each epoch deals all n
// examples in another random order, in batches as equal as possible.
func (c Config) batch(step, n int) []int {
	batches := c.perEpoch(n)
	epoch, b := (step-1)/batches, (step-1)%batches
	order := rand.New(rand.NewPCG(c.Seed, uint64(epoch))).Perm(n)
	return order[b*n/batches : (b+1)*n/batches]
}

// split sets a share of the examples aside for the held-out loss: none for share
// 0, otherwise at least one. At least one example is left to train on.
func split(examples []Example, share float64, seed uint64) (train, held []Example) {
	n := min(int(math.Ceil(share*float64(len(examples)))), len(examples)-1)
	for i, at := range rand.New(rand.NewPCG(seed, math.MaxUint64)).Perm(len(examples)) {
		if i < n {
			held = append(held, examples[at])
		} else {
			train = append(train, examples[at])
		}
	}
	return train, held
}
