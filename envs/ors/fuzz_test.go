package ors

import (
	"encoding/json"
	"testing"
)

// What the policy writes becomes a tool call with a name, as valid JSON, or is refused
// with a reason.
func FuzzToolCall(f *testing.F) {
	f.Add("```{\"name\": \"a\", \"arguments\": {\"x\": [1]}}```", "")
	f.Add("{}", "")
	f.Add("}{", "")
	f.Add("\xff", "fixed")
	f.Fuzz(func(t *testing.T, action, fixed string) {
		a := actions{tool: fixed, input: map[string]any{"text": "{action}", "n": "{action:json}"}}
		c, reason := a.call(action)
		if (c.Name == "") != (reason != "") {
			t.Fatalf("%q: %+v, reason %q", action, c, reason)
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatalf("%q: %v", action, err)
		}
	})
}
