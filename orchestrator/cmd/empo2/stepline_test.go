package main

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
)

// What annealing, dynamic sampling and overlong shaping did is shown if they are in use.
func TestStepDetailsShowTheMethod(t *testing.T) {
	f := func(m orchestrator.StepMetrics, want string) {
		t.Helper()
		if got := strings.Join(methodParts(m), ", "); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f(orchestrator.StepMetrics{}, "")
	f(orchestrator.StepMetrics{MemoryProbability: 0.234, Batches: 3, Overlong: -0.5},
		"p_mem 0.23, 3 batches of groups, overlong -0.5")
}
