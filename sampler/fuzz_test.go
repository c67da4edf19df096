package sampler

import (
	"encoding/json"
	"math"
	"testing"
)

// Stored log-probs are equal after reading and writing; an unknown one stays unknown.
func FuzzLogprobs(f *testing.F) {
	f.Add([]byte(`[-0.5, null, 0]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`[1e39]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var first, second Logprobs
		if json.Unmarshal(text, &first) != nil {
			return
		}
		written, err := json.Marshal(first)
		if err == nil {
			err = json.Unmarshal(written, &second)
		}
		if err != nil || len(first) != len(second) {
			t.Fatalf("%s becomes %s: %v", text, written, err)
		}
		for i := range first {
			if first[i] != second[i] && !(math.IsNaN(float64(first[i])) && math.IsNaN(float64(second[i]))) {
				t.Fatalf("%v becomes %v", first[i], second[i])
			}
		}
	})
}
