package faultyhttp

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
)

// Changed returns a fault that changes the right answer, a JSON object, at a path such as
// "choices.0.text". change gets the value at the path, nil if there is none, and returns
// the new one; nil as a whole removes the key.
func Changed(name, path string, change func(old any) (value any, keep bool)) Fault {
	type recorder = *httptest.ResponseRecorder
	return Fault{Name: name + " " + path, Serve: func(w http.ResponseWriter, _ *http.Request, right recorder) {
		var answer map[string]any
		if err := json.Unmarshal(right.Body.Bytes(), &answer); err != nil {
			panic(fmt.Sprintf("the right answer is no object: %v", err))
		}
		edit(answer, strings.Split(path, "."), change)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}}
}

// Missing removes a key.
func Missing(path string) Fault {
	return Changed("missing", path, func(any) (any, bool) { return nil, false })
}

// Set replaces a value.
func Set(path string, value any) Fault {
	return Changed(fmt.Sprintf("%v for", value), path, func(any) (any, bool) { return value, true })
}

// Shorter removes the last element of a list.
func Shorter(path string) Fault {
	return Changed("one less in", path, func(old any) (any, bool) {
		list := old.([]any)
		return list[:len(list)-1], true
	})
}

// Longer repeats the last element of a list.
func Longer(path string) Fault {
	return Changed("one more in", path, func(old any) (any, bool) {
		list := old.([]any)
		return append(list, list[len(list)-1]), true
	})
}

// edit changes the value at a path.
func edit(in any, path []string, change func(any) (any, bool)) {
	switch in := in.(type) {
	case map[string]any:
		if len(path) > 1 {
			edit(in[path[0]], path[1:], change)
			return
		}
		if value, keep := change(in[path[0]]); keep {
			in[path[0]] = value
		} else {
			delete(in, path[0])
		}
	case []any:
		i, err := strconv.Atoi(path[0])
		if err != nil {
			panic(err)
		}
		if len(path) > 1 {
			edit(in[i], path[1:], change)
			return
		}
		in[i], _ = change(in[i])
	default:
		panic(fmt.Sprintf("no value at %q", path))
	}
}
