package sampler

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Logprobs are log-probs in nats. NaN means unknown and is null in JSON.
type Logprobs []float32

// MarshalJSON writes values that are not finite as null.
func (l Logprobs) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("null"), nil
	}
	values := make([]*float32, len(l))
	for i := range l {
		if isFinite(l[i]) {
			values[i] = &l[i]
		}
	}
	return json.Marshal(values)
}

// UnmarshalJSON reads null as NaN.
func (l *Logprobs) UnmarshalJSON(data []byte) error {
	var values []*float32
	if err := json.Unmarshal(data, &values); err != nil {
		return fmt.Errorf("log-probs: %w", err)
	}
	if values == nil {
		*l = nil
		return nil
	}
	*l = make(Logprobs, len(values))
	for i, v := range values {
		(*l)[i] = float32(math.NaN())
		if v != nil {
			(*l)[i] = *v
		}
	}
	return nil
}

func isFinite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

// UnknownLogprobs returns n unknown log-probs.
func UnknownLogprobs(n int) []float32 { return slices.Repeat([]float32{float32(math.NaN())}, n) }
