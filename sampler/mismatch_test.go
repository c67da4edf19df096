package sampler_test

import (
	"strings"
	"testing"

	"github.com/empo2/empo2/sampler"
)

func TestMismatchCauseHasTheServersHint(t *testing.T) {
	hints := map[string]string{sampler.HintStaleCache: "switch the cache off", sampler.HintLowPrecision: "use float32"}
	f := func(mean, largest float64, want ...string) {
		t.Helper()
		got := sampler.MismatchCause(mean, largest, sampler.Capabilities{Hints: hints})
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("mean %v, largest %v: %q, want %q", mean, largest, got, text)
			}
		}
		if without := sampler.MismatchCause(mean, largest, sampler.Capabilities{}); strings.Contains(without, "hint: ") {
			t.Errorf("an unexpected hint: %q", without)
		}
	}
	f(9e-4, 1.9, "stale prompt cache", "hint: switch the cache off")
	f(0.01, 0.1, "low precision", "hint: use float32")
	f(2, 6, "wrong adapter")
	f(0.4, 41, "another base model")
	quantised := sampler.Capabilities{Hints: hints, Rounding: "the served base is quantised: Q4_1"}
	if got := sampler.MismatchCause(0.04, 0.17, quantised); got != quantised.Rounding {
		t.Errorf("a quantised base: %q", got)
	}
	if got := sampler.MismatchCause(2, 6, quantised); !strings.Contains(got, "another base model") {
		t.Errorf("another model, quantised: %q", got)
	}
}
