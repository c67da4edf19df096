package template

import (
	"encoding/json"
	"testing"
)

func TestTemplates(t *testing.T) {
	f := func(object map[string]any, action, want string) {
		t.Helper()
		got, err := json.Marshal(Fill(object, action))
		if err != nil || string(got) != want {
			t.Errorf("%v with %q: %s, error %v; want %s", object, action, got, err, want)
		}
	}
	f(map[string]any{"message": "{action}"}, `say "x"`, `{"message":"say \"x\""}`)
	f(map[string]any{"message": "[{action}]", "n": 1.0}, "crane", `{"message":"[crane]","n":1}`)
	f(map[string]any{"action_id": "{action:json}"}, " 3 ", `{"action_id":3}`)
	f(map[string]any{"action_id": "{action:json}"}, "three", `{"action_id":"three"}`)
	f(map[string]any{"call": []any{map[string]any{"args": "{action:json}"}}}, `{"x": [1]}`,
		`{"call":[{"args":{"x":[1]}}]}`)
	f(map[string]any{"a": "{action:json}"}, "\"\xff\"", "{\"a\":\"\uFFFD\"}")
	f(map[string]any{"a": "{action}"}, "{action}", `{"a":"{action}"}`)
}
