package openai

import (
	"encoding/json"
	"testing"

	"github.com/empo2/empo2/sampler"
)

// An accepted answer has one choice and a known end.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"model": "m", "choices": [{"finish_reason": "stop", "message": {"content": "a"}}], "usage": {}}`))
	f.Add([]byte(`{"choices": [{}, {}]}`))
	f.Add([]byte(`{"error": {"message": "x"}, "choices": [{}]}`))
	f.Add([]byte(`{"choices": [{"message": {"content": null}, "finish_reason": null}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var a answer
		if json.Unmarshal(text, &a) != nil {
			return
		}
		c, err := a.completion()
		if err == nil && (len(a.Choices) != 1 ||
			c.Finish != sampler.FinishStop && c.Finish != sampler.FinishLength) {
			t.Fatalf("%s is accepted as %+v", text, c)
		}
	})
}
