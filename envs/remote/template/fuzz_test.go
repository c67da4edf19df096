package template

import (
	"encoding/json"
	"testing"
)

// A filled template is valid JSON, whatever the policy writes.
func FuzzFill(f *testing.F) {
	f.Add(`{"a": "{action}", "b": ["{action:json}"]}`, `{"x": 1}`)
	f.Add(`{"a": "{action:json}"}`, "\xff}")
	f.Fuzz(func(t *testing.T, text, action string) {
		var template any
		if json.Unmarshal([]byte(text), &template) != nil {
			return
		}
		if _, err := json.Marshal(Fill(template, action)); err != nil {
			t.Fatalf("%s with %q: %v", text, action, err)
		}
	})
}
