package template

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Schema is what the JSON schema of an object says of its fields.
type Schema struct {
	Properties map[string]struct {
		Type string `json:"type"`
	} `json:"properties"`
	Required   []string `json:"required"`
	Additional *bool    `json:"additionalProperties"`
	silent     string
}

// Silence makes a field one that may be given and is not asked for.
func (s *Schema) Silence(field string) {
	delete(s.Properties, field)
	s.silent = field
}

// Template checks what the configuration, under key, says the object is, or
// finds the default: a template of the one field, or the one required field.
func (s Schema) Template(key string, given map[string]any) (map[string]any, error) {
	if given == nil {
		return s.only(key)
	}
	if !holdsAction(given) {
		return nil, fmt.Errorf(`the %s lacks the action (hint: %s = {"field": "{action}"}, or "{action:json}" for other types)`, key, key)
	}
	for name := range given {
		if _, ok := s.Properties[name]; !ok && name != s.silent && s.Additional != nil && !*s.Additional {
			return nil, fmt.Errorf("the server knows no field %q of the %s (hint: there are %s)", name, key, s.fields())
		}
	}
	for _, name := range s.Required {
		if _, ok := given[name]; !ok {
			return nil, fmt.Errorf("the %s lacks the field %q (hint: there are %s)", key, name, s.fields())
		}
	}
	return given, nil
}

func (s Schema) only(key string) (map[string]any, error) {
	names := s.Required
	if len(s.Properties) == 1 {
		names = slices.Collect(maps.Keys(s.Properties))
	}
	if len(names) != 1 {
		return nil, fmt.Errorf(`the server's %s has the fields %s; which is the policy's text? (hint: %s = {"field": "{action}"})`, key, s.fields(), key)
	}
	if t := s.Properties[names[0]].Type; t != "string" {
		return map[string]any{names[0]: JSON}, nil
	}
	return map[string]any{names[0]: Text}, nil
}

// fields names the fields with their types.
func (s Schema) fields() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		part := name
		if t := s.Properties[name].Type; t != "" {
			part += " (" + t + ")"
		}
		parts = append(parts, part)
	}
	if parts == nil {
		return "no names"
	}
	return strings.Join(parts, ", ")
}
