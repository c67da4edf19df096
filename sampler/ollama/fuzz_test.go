package ollama

import (
	"encoding/json"
	"testing"
)

// An accepted answer has a text and is the model's, or it is empty.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"model": "m", "response": "a", "done": true, "logprobs": [{"token": "a", "logprob": -1}]}`))
	f.Add([]byte(`{"model": "m", "message": {"role": "assistant", "content": "a"}, "done_reason": "stop"}`))
	f.Add([]byte(`{"model": "other", "response": null, "message": null}`))
	f.Add([]byte(`{"error": "no"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var a answer
		if json.Unmarshal(body, &a) != nil || a.check("m") != nil {
			return
		}
		if text, ok := a.text(); !ok || a.Model != "m" && text != "" {
			t.Fatalf("%s is accepted", body)
		}
	})
}
