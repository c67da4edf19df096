package process

import (
	"slices"
	"strings"
)

// FillPlaceholders replaces every placeholder {name} in the words of a command.
func FillPlaceholders(command []string, values map[string]string) []string {
	var filled []string
	for _, word := range command {
		for name, value := range values {
			word = strings.ReplaceAll(word, "{"+name+"}", value)
		}
		filled = append(filled, word)
	}
	return filled
}

// HasPlaceholder says whether a command contains the placeholder {name}.
func HasPlaceholder(command []string, name string) bool {
	return slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "{"+name+"}") })
}
