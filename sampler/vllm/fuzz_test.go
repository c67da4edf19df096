package vllm

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
)

// An accepted answer has one choice and the ids of that choice.
func FuzzCompletion(f *testing.F) {
	f.Add([]byte(`{"model": "m", "choices": [{"text": "a", "finish_reason": "stop", "token_ids": [1], 
"prompt_token_ids": [2],
"logprobs": {"tokens": ["token_id:1"], "token_logprobs": [-0.5]}}]}`))
	f.Add([]byte(`{"choices": [{"token_ids": [1],
"logprobs": {"tokens": ["token_id:2"], "token_logprobs": [null]}}, {}]}`))
	f.Add([]byte(`{"choices": [{"logprobs": {"token_logprobs": [1e39]}}]}`))
	f.Add([]byte(`{"error": {"message": "x"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var c completion
		if json.Unmarshal(text, &c) != nil {
			return
		}
		a, err := c.read()
		if err == nil && (len(c.Choices) != 1 || !slices.Equal(a.IDs, c.Choices[0].IDs) ||
			!slices.Equal(a.prompt, c.Choices[0].PromptIDs)) {
			t.Fatalf("%s: %+v", text, a)
		}
	})
}

// A metric is a finite sum.
func FuzzMetrics(f *testing.F) {
	f.Add("vllm:x{a=\"b\"} 1.0\nvllm:x 2\n")
	f.Add("vllm:x NaN\nvllm:x +Inf\nvllm:x -1\nvllm:x{\n")
	f.Fuzz(func(t *testing.T, text string) {
		if sum, known := gauge(text, "vllm:x"); sum < 0 || math.IsNaN(sum) || math.IsInf(sum, 0) || !known && sum != 0 {
			t.Fatalf("%q: %v, %v", text, sum, known)
		}
	})
}
