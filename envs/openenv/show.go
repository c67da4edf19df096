package openenv

import (
	"encoding/json"
	"strconv"
	"strings"
)

// show is the text of an observation: what the paths lead to, a line each. It
// reports whether one of them leads anywhere.
func show(observation map[string]any, paths []string) (text string, found bool) {
	if len(paths) == 0 {
		if len(observation) == 1 {
			for _, only := range observation {
				return plain(only), true
			}
		}
		return plain(observation), true
	}
	var lines []string
	for _, path := range paths {
		value, ok := walk(observation, strings.Split(path, "."))
		found = found || ok
		if line := plain(value); ok && line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n"), found
}

// walk follows names and indices; a negative index counts from the end.
func walk(value any, path []string) (any, bool) {
	for _, element := range path {
		switch v := value.(type) {
		case map[string]any:
			next, ok := v[element]
			if !ok {
				return nil, false
			}
			value = next
		case []any:
			i, err := strconv.Atoi(element)
			if i < 0 {
				i += len(v)
			}
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			value = v[i]
		default:
			return nil, false
		}
	}
	return value, true
}

// plain is a text as it is, and the JSON of anything else but null.
func plain(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case nil:
		return ""
	}
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil { // never: it was decoded from JSON
		return ""
	}
	return strings.TrimSpace(b.String())
}
