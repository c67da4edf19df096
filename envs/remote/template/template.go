// Package template makes the object that an environment server wants for an
// action out of the text that a policy wrote.
package template

import (
	"encoding/json"
	"strings"
)

// Text stands in a template for what the policy wrote, JSON for the JSON that
// it wrote.
const (
	Text = "{action}"
	JSON = "{action:json}"
)

// Fill puts an action into a template. What is no JSON is sent as a text where
// JSON is due: to judge it is the server's business.
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

// holdsAction reports whether an action has a place in a template.
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
