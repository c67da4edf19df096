package openenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/empo2/empo2/envs/remote/exchange"
)

// schema is what the server's GET /schema says of actions.
type schema struct {
	Properties map[string]struct {
		Type string `json:"type"`
	} `json:"properties"`
	Required   []string `json:"required"`
	Additional *bool    `json:"additionalProperties"`
}

// readSchema asks the server for the shape of its actions.
func readSchema(ctx context.Context, c *exchange.Client) (schema, error) {
	raw, err := c.Do(ctx, exchange.Request{Path: "/schema", Prompt: true})
	var f *exchange.Failure
	switch {
	case errors.As(err, &f) && f.Kind == exchange.Unreached:
		return schema{}, fmt.Errorf("%w (hint: start the environment's server, or set its url)", err)
	case errors.As(err, &f) && (f.Kind == exchange.Refused || f.Kind == exchange.Foreign):
		return schema{}, fmt.Errorf("%w (hint: %s)", err, c.Recognize(ctx))
	case err != nil:
		return schema{}, err
	}
	var answer struct{ Action *schema }
	if json.Unmarshal(raw, &answer) != nil || answer.Action == nil {
		return schema{}, fmt.Errorf("GET /schema lacks the schema of an action (hint: %s)", c.Recognize(ctx))
	}
	delete(answer.Action.Properties, "metadata") // of every action, and never needed
	return *answer.Action, nil
}

// template checks what the configuration says an action is sent as, or finds
// the default.
func (s schema) template(given map[string]any) (map[string]any, error) {
	if given == nil {
		return s.only()
	}
	if !holdsAction(given) {
		return nil, errors.New(`the template of an action lacks the action (hint: action = {message = "{action}"}, or "{action:json}" for other types)`)
	}
	for name := range given {
		if _, ok := s.Properties[name]; !ok && name != "metadata" && s.Additional != nil && !*s.Additional {
			return nil, fmt.Errorf("the server's actions have no field %q (hint: they have %s)", name, s.fields())
		}
	}
	for _, name := range s.Required {
		if _, ok := given[name]; !ok {
			return nil, fmt.Errorf("the template of an action lacks the field %q (hint: actions have %s)", name, s.fields())
		}
	}
	return given, nil
}

// only is the template of an action that has one field, or one required field.
func (s schema) only() (map[string]any, error) {
	names := s.Required
	if len(s.Properties) == 1 {
		names = slices.Collect(maps.Keys(s.Properties))
	}
	if len(names) != 1 {
		return nil, fmt.Errorf(`the server's actions have the fields %s; which is the policy's text? (hint: action = {field = "{action}"})`, s.fields())
	}
	if t := s.Properties[names[0]].Type; t != "string" {
		return map[string]any{names[0]: actionJSON}, nil
	}
	return map[string]any{names[0]: actionText}, nil
}

// fields names the fields of an action with their types.
func (s schema) fields() string {
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
