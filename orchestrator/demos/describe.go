package demos

import (
	"fmt"
	"strings"
)

// Describe counts demonstrations by what they show, in one line.
func Describe(all []Demonstration) string {
	var tips, reflections, successes int
	tasks := map[string]bool{}
	for _, d := range all {
		if d.Source == nil {
			continue
		}
		tasks[d.Source.Task] = true
		tips += one(d.Source.Tips)
		reflections += one(d.Source.Reflection)
		successes += one(d.Source.Success)
	}
	parts := []string{fmt.Sprintf("%d demonstrations of %d tasks", len(all), len(tasks))}
	parts = append(parts, fmt.Sprintf("%d successes, %d failures", successes, len(all)-successes))
	if tips+reflections > 0 {
		parts = append(parts, fmt.Sprintf("%d show tips, %d end with writing a tip", tips, reflections))
	}
	return strings.Join(parts, "; ")
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
