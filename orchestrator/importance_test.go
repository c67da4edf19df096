package orchestrator

import (
	"math"
	"testing"
)

// The weights were computed by hand.
func TestImportanceWeights(t *testing.T) {
	log := []float64{0, 0.5, -0.4, 1.2, -1}
	f := func(mode string, low, high float64, want ...float64) {
		t.Helper()
		for i, w := range (importance{mode: mode, low: low, high: high}).weights(log) {
			if math.Abs(float64(w)-want[i]) > 6e-5 {
				t.Errorf("%s within [%g, %g]: token %d has %g, want %g", mode, low, high, i, w, want[i])
			}
		}
	}
	f("token_truncate", 0.5, 2, 1, 1.6487, 0.6703, 2, 0.3679)
	f("token_mask", 0.5, 5, 1, 1.6487, 0.6703, 3.3201, 0)
	f("token_mask", 0.5, 2, 1, 1.6487, 0.6703, 0, 0)
	f("sequence_truncate", 0.5, 2, 1.3499, 1.3499, 1.3499, 1.3499, 1.3499)
	f("sequence_truncate", 0.5, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2)
	f("sequence_mask", 0.5, 2, 1.3499, 1.3499, 1.3499, 1.3499, 1.3499)
	f("sequence_mask", 0.5, 1.2, 0, 0, 0, 0, 0)
	f("geometric_truncate", 0.5, 2, 1.0618, 1.0618, 1.0618, 1.0618, 1.0618)
	f("geometric_mask", 0.99, 1.01, 0, 0, 0, 0, 0)
	f("geometric_mask", 0.99, 1.1, 1.0618, 1.0618, 1.0618, 1.0618, 1.0618)
	f("token_truncate", 0.5, 0, 1, 1, 1, 1, 1)

	log = []float64{1e6, -1e6}
	f("token_truncate", 0.5, 2, 2, 0)
	f("token_mask", 0.5, 2, 0, 0)
	log = []float64{0, 0, 0} // both agree: every mode gives exactly 1
	for _, mode := range []string{"token_truncate", "token_mask", "sequence_truncate", "sequence_mask",
		"geometric_truncate", "geometric_mask"} {
		for _, w := range (importance{mode: mode, low: 0.5, high: 2}).weights(log) {
			if w != 1 {
				t.Errorf("%s: weight %g without a mismatch", mode, w)
			}
		}
	}
}
