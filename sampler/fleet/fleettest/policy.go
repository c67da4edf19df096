package fleettest

import (
	"time"

	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

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

// PrepareAll calls Prepare, if set, for each engine.
func (c Config) PrepareAll(engines []*fakeserver.Engine) {
	for i, e := range engines {
		if c.Prepare != nil {
			c.Prepare(i, e)
		}
	}
}

// SetDeadlines copies the deadlines that are set into a backend's configuration.
func (c Config) SetDeadlines(requestTimeout, patience *time.Duration) {
	if c.RequestTimeout > 0 {
		*requestTimeout = c.RequestTimeout
	}
	if c.Patience > 0 {
		*patience = c.Patience
	}
}
