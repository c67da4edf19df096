package sglang

import (
	"encoding/json"
	"testing"
)

// In an accepted answer each log-prob belongs to the id at its place.
func FuzzGenerated(f *testing.F) {
	f.Add([]byte(`{"text": "a", "output_ids": [1, 2], "meta_info": {"prompt_tokens": 1, 
"finish_reason": {"type": "length"},
"output_token_logprobs": [[-0.5, 1, null], [-1, 2]]}}`))
	f.Add([]byte(`{"output_ids": [1], "meta_info": {"output_token_logprobs": [[null, 2, "a"], [1], [], null]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var g generated
		if json.Unmarshal(text, &g) != nil {
			return
		}
		a, err := g.read()
		if err != nil {
			return
		}
		if len(a.Logprobs) != len(g.Meta.Logprobs) {
			t.Fatalf("%d log-probs of %d", len(a.Logprobs), len(g.Meta.Logprobs))
		}
		for i, row := range g.Meta.Logprobs {
			if i < len(a.IDs) && row.id != a.IDs[i] {
				t.Fatalf("log-prob %d of id %d is assigned to %d", i, row.id, a.IDs[i])
			}
		}
	})
}
