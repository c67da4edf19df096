package agentgym

import (
	"encoding/json"
	"math"
	"testing"
)

// Every dialect reads or refuses an answer; a score that decides about success exists.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"observation": "a", "reward": 1, "score": 100, "done": true, "available_actions": ["x"]}`))
	f.Add([]byte(`["a", null]`))
	f.Add([]byte(`{"state": null, "done": 1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for name, d := range dialects {
			_, _ = d.first(json.RawMessage(text))
			if a, err := d.answer(json.RawMessage(text)); err == nil && (math.IsNaN(a.Reward) || math.IsInf(a.Reward, 0)) {
				t.Fatalf("%s: the reward %v is accepted", name, a.Reward)
			}
		}
	})
}
