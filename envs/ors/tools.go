package ors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/envs/remote/template"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// A tool is a ToolSpec (types.py). Without input its schema is null.
type tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"input_schema"`
}

// A call is a ToolCall (types.py). Other fields are not allowed. TaskID resumes a
// call after its stream was cut (_reconnect.py).
type call struct {
	Name   string `json:"name"`
	Input  any    `json:"input"`
	TaskID string `json:"task_id,omitempty"`
}

// actions turns the text of the policy into tool calls.
type actions struct {
	tool        string // empty: the policy chooses the tool
	input       map[string]any
	instruction string
}

func newActions(tools []tool, fixed string, input map[string]any) (actions, error) {
	if len(tools) == 0 {
		return actions{}, errors.New("the environment lists no tools")
	}
	if fixed == "" && input != nil {
		return actions{}, errors.New("input has no effect without a tool\n  hint: set tool")
	}
	if fixed == "" {
		text := "Act by calling a tool. Answer with one JSON object: " + form + " The tools:" + list(tools)
		return actions{instruction: text}, nil
	}
	var names []string
	for _, t := range tools {
		if names = append(names, t.Name); t.Name != fixed {
			continue
		}
		var s *template.Schema
		if json.Unmarshal(t.Schema, &s) != nil || s == nil {
			return actions{}, fmt.Errorf("the tool %q takes no input"+
				"\n  hint: leave tool empty; the policy then writes tool calls", fixed)
		}
		filled, err := s.Template("input", input)
		if err != nil {
			return actions{}, fmt.Errorf("tool %q: %w", fixed, err)
		}
		text := fmt.Sprintf("What you answer is given to the tool %s: %s", fixed, oneLine(t.Description))
		return actions{fixed, filled, text}, nil
	}
	return actions{}, fmt.Errorf("no tool %q\n  hint: the tools are %q", fixed, names)
}

const form = `{"name": "TOOL", "input": {…}}.`

// list describes the tools, one per line.
func list(tools []tool) string {
	var b strings.Builder
	for _, t := range tools {
		fmt.Fprintf(&b, "\n- %s: %s", t.Name, oneLine(t.Description))
		var schema bytes.Buffer
		if json.Compact(&schema, t.Schema) == nil && schema.String() != "null" {
			fmt.Fprintf(&b, " Input: %s", schema.String())
		} else {
			b.WriteString(" No input.")
		}
	}
	return b.String()
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// call turns an action into a tool call, or returns why it is not one. If the
// policy writes the call, text before the first and after the last brace (code
// fences, tags) is ignored. The field input may be called arguments, as many models
// write it.
func (a actions) call(action string) (c call, reason string) {
	if a.tool != "" {
		return call{Name: a.tool, Input: template.Fill(a.input, action)}, ""
	}
	text := strings.ToValidUTF8(action, "\uFFFD")
	first, last := strings.Index(text, "{"), strings.LastIndex(text, "}")
	if first < 0 || last < first {
		return c, "The action is no tool call. Answer with one JSON object: " + form
	}
	var written struct {
		Name             string
		Input, Arguments map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(text[first:last+1]), &written); err != nil {
		return c, fmt.Sprintf("The action is no tool call: %v. Answer with one JSON object: %s",
			safetext.JSONError(err), form)
	}
	if written.Input == nil {
		written.Input = written.Arguments
	}
	if written.Input == nil {
		written.Input = map[string]json.RawMessage{}
	}
	if written.Name == "" {
		return c, "The tool call lacks the tool's name. Answer with one JSON object: " + form
	}
	return call{Name: written.Name, Input: written.Input}, ""
}
