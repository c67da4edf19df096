package vault

import "strings"

// Advice says, as the tips of this environment do, which levers open the door of a state
// and which do not. good and bad are actions. It returns "" for texts that are no state or
// no action of this environment.
func Advice(state string, good, bad []string) string {
	words := strings.Fields(state)
	if len(words) == 0 {
		return ""
	}
	door := strings.TrimSuffix(words[len(words)-1], ".")
	var a advice
	add := func(actions []string, opens bool) {
		for _, action := range actions {
			if lever := pulled(action); lever != "" {
				a = append(a, fact{door, lever, opens})
			}
		}
	}
	add(good, true)
	add(bad, false)
	if len(a) == 0 {
		return ""
	}
	return a.text()
}
