package openenv

import (
	"encoding/json"
	"strconv"
	"strings"
)

// show returns the text of an observation: the values at the paths, one per line.
// It reports whether the observation has any of the paths.
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
		value, ok := valueAt(observation, strings.Split(path, "."))
		found = found || ok
		if line := plain(value); ok && line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n"), found
}

// valueAt follows a path of names and indices. A negative index counts from the end.
func valueAt(value any, path []string) (any, bool) {
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

// plain returns a text unchanged, "" for null, and any other value as JSON.
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
	if encoder.Encode(value) != nil { // cannot happen, as the value was decoded from JSON
		return ""
	}
	return strings.TrimSpace(b.String())
}
