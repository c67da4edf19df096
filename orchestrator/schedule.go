package orchestrator

import (
	"math"

	"github.com/empo2/empo2/orchestrator/config"
)

// learningRate is the learning rate of training step 1, 2, …, steps: a linear
// rise over the warm-up, whose first step already learns, then the schedule's
// decay, whose last step still learns.
func learningRate(o config.Optimizer, step, steps int) float64 {
	if step <= o.WarmupSteps {
		return o.LearningRate * float64(step) / float64(o.WarmupSteps)
	}
	// 1 at the first step after the warm-up, above 0 at the last one
	left := float64(max(1, steps-step+1)) / float64(max(1, steps-o.WarmupSteps))
	switch o.Schedule {
	case "linear":
		return o.LearningRate * left
	case "cosine":
		return o.LearningRate * (1 - math.Cos(math.Pi*left)) / 2
	default:
		return o.LearningRate
	}
}
