package process

import (
	"slices"
	"strings"
)

// FillPlaceholders replaces every placeholder {name} in the words of a command. A
// placeholder in a value stays as it is.
func FillPlaceholders(command []string, values map[string]string) []string {
	var pairs []string
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	replacer := strings.NewReplacer(pairs...)
	var filled []string
	for _, word := range command {
		filled = append(filled, replacer.Replace(word))
	}
	return filled
}

// HasPlaceholder says whether a command contains the placeholder {name}.
func HasPlaceholder(command []string, name string) bool {
	return slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "{"+name+"}") })
}
