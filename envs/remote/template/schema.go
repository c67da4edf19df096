package template

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Schema has the fields in the JSON schema of an object.
type Schema struct {
	Properties map[string]struct {
		Type string `json:"type"`
	} `json:"properties"`
	Required   []string `json:"required"`
	Additional *bool    `json:"additionalProperties"`
	optional   string   // a field that may be given, see SetOptional
}

// SetOptional makes a field optional and removes it from hints.
func (s *Schema) SetOptional(field string) {
	delete(s.Properties, field)
	s.optional = field
}

// Template checks the template that the configuration gives under key. Without one
// it returns the default: a template with the only field, or with the only required
// field.
func (s Schema) Template(key string, given map[string]any) (map[string]any, error) {
	if given == nil {
		return s.only(key)
	}
	if !holdsAction(given) {
		return nil, fmt.Errorf("the %s has no {action}\n"+
			`  hint: %s = {"field": "{action}"}, or "{action:json}" for other types`, key, key)
	}
	for name := range given {
		if _, ok := s.Properties[name]; !ok && name != s.optional && s.Additional != nil && !*s.Additional {
			return nil, fmt.Errorf("the server has no field %q of the %s\n  hint: it has %s", name, key, s.fields())
		}
	}
	for _, name := range s.Required {
		if _, ok := given[name]; !ok {
			return nil, fmt.Errorf("the %s lacks the field %q\n  hint: the server has %s", key, name, s.fields())
		}
	}
	return given, nil
}

// only returns the default template.
func (s Schema) only(key string) (map[string]any, error) {
	names := s.Required
	if len(s.Properties) == 1 {
		names = slices.Collect(maps.Keys(s.Properties))
	}
	if len(names) != 1 {
		return nil, fmt.Errorf("the server's %s has several fields: %s\n  hint: "+`choose one by %s = {"field": "{action}"}`,
			key, s.fields(), key)
	}
	if t := s.Properties[names[0]].Type; t != "string" {
		return map[string]any{names[0]: JSON}, nil
	}
	return map[string]any{names[0]: Text}, nil
}

// fields lists the fields with their types.
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
		return "no fields"
	}
	return strings.Join(parts, ", ")
}
