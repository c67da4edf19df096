// Package template turns the text of a policy into the JSON object that an
// environment server expects as an action.
package template

import (
	"encoding/json"
	"strings"
)

// Text and JSON are the placeholders of a template: for the text of the policy, and
// for the JSON in that text.
const (
	Text = "{action}"
	JSON = "{action:json}"
)

// Fill replaces the placeholders of a template by an action. If the action is not
// valid JSON, the placeholder JSON is replaced by the text, and the server refuses
// it.
func Fill(template any, action string) any {
	switch t := template.(type) {
	case map[string]any:
		filled := make(map[string]any, len(t))
		for name, value := range t {
			filled[name] = Fill(value, action)
		}
		return filled
	case []any:
		filled := make([]any, len(t))
		for i, value := range t {
			filled[i] = Fill(value, action)
		}
		return filled
	case string:
		if valid := []byte(strings.ToValidUTF8(action, "\uFFFD")); t == JSON && json.Valid(valid) {
			return json.RawMessage(valid)
		}
		if t == JSON {
			return action
		}
		return strings.ReplaceAll(t, Text, action)
	}
	return template
}

// holdsAction reports whether a template has a placeholder.
func holdsAction(template any) bool {
	switch t := template.(type) {
	case map[string]any:
		for _, value := range t {
			if holdsAction(value) {
				return true
			}
		}
	case []any:
		for _, value := range t {
			if holdsAction(value) {
				return true
			}
		}
	case string:
		return t == JSON || strings.Contains(t, Text)
	}
	return false
}
