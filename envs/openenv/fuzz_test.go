package openenv

import (
	"errors"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// An accepted answer has an observation, or is an error about the action. Each path
// into an observation is followed or not found.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"type": "observation", "data": {"observation": {"a": [1, "b"]}, "reward": true}}`), "a.-1")
	f.Add([]byte(`{"type": "error", "data": {"code": "VALIDATION_ERROR", "errors": [{"loc": ["a", 1], "msg": "x"}]}}`), "")
	f.Add([]byte(`{"type": "observation", "data": {"reward": "x"}}`), "a.b")
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		a, err := readAnswer(text)
		if err != nil {
			var failure *jsonhttp.Error
			if !errors.As(err, &failure) {
				t.Fatalf("%q", err)
			}
			return
		}
		if a.Type != "error" && a.Data.Observation == nil {
			t.Fatalf("%s is accepted", text)
		}
		_, _ = show(a.Data.Observation, []string{path})
		if strings.Contains(a.errorText(), "%!") {
			t.Fatalf("%q", a.errorText())
		}
	})
}
