package fleettest

import "github.com/empo2/empo2/sampler/samplertest"

// Policy is the scripted policy of tests of backends. Its completions share
// beginnings, and their probabilities depend on the version.
func Policy() samplertest.Policy {
	return samplertest.Policy{
		Tokenizer: samplertest.NewTokenizer(" jade", "pull"),
		Script: func(version int, _ []int32) []samplertest.Choice {
			return []samplertest.Choice{
				{Text: "pull jade", Weight: 3}, {Text: "pull amber", Weight: 1 + float64(version)},
				{Text: "look around", Weight: 1},
			}
		},
	}
}
