package orchestrator

import (
	"math"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
)

func TestLearningRate(t *testing.T) {
	f := func(schedule string, warmup int, want ...float64) {
		t.Helper()
		o := config.Optimizer{LearningRate: 0.1, Schedule: schedule, WarmupSteps: warmup}
		for i, w := range want {
			if got := learningRate(o, i+1, len(want)); math.Abs(got-w) > 1e-15 {
				t.Errorf("%s, warm-up %d: step %d has %g, want %g", schedule, warmup, i+1, got, w)
			}
		}
	}
	f("constant", 0, 0.1, 0.1, 0.1)
	f("constant", 2, 0.05, 0.1, 0.1, 0.1)
	f("linear", 0, 0.1, 0.075, 0.05, 0.025)
	f("linear", 2, 0.05, 0.1, 0.1, 0.05)
	// (1 − cos πx)/2 at x = 1, 3/4, 1/2, 1/4
	f("cosine", 0, 0.1, 0.1*(2+math.Sqrt2)/4, 0.05, 0.1*(2-math.Sqrt2)/4)
	f("cosine", 1, 0.1, 0.1, 0.05)
	// Without a schedule the rate is exactly the configured one, and a run that
	// is over does not go below its last step.
	if got := learningRate(config.Optimizer{LearningRate: 3e-3, Schedule: "constant"}, 7, 3); got != 3e-3 {
		t.Errorf("%g", got)
	}
	if got := learningRate(config.Optimizer{LearningRate: 1, Schedule: "linear"}, 9, 4); got != 0.25 {
		t.Errorf("%g", got)
	}
}
