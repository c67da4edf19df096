package config

import (
	"fmt"
	"maps"
	"slices"
)

// dropOverruled resets the keys of the files that only a set makes ineffective, such as memory.k of a file beside
// --set algorithm.name=grpo. A key that has no effect in its file stays, and is an error.
func (s Source) dropOverruled(c *Config, base Config, texts []string, given map[string]string) error {
	if len(s.Sets) == 0 || len(s.Files) == 0 {
		return nil
	}
	before, inFiles, err := s.layered(base, texts, nil)
	if err != nil {
		return err
	}
	now, _, err := s.layered(base, texts, s.Sets)
	if err != nil {
		return err
	}
	derive(&before, s.Machine)
	derive(&now, s.Machine)
	already := ineffectiveKeys(before, base, inFiles, s.Machine)
	found := ineffectiveKeys(now, base, given, s.Machine)
	defaults := Values(base)
	for _, key := range slices.Sorted(maps.Keys(found)) {
		if already[key] != "" || inFiles[key] == "" || given[key] != inFiles[key] {
			continue
		}
		if err := decode(key+" = "+defaults[key], given[key], c, map[string]string{}); err != nil {
			return err
		}
		if s.Note != nil {
			s.Note(fmt.Sprintf("%s: %s has no effect beside --set: %s", given[key], key, found[key]))
		}
		delete(given, key)
	}
	return nil
}
