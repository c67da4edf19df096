package samplertest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/empo2/empo2/sampler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// branching is a script with several texts that have a common beginning. Their probabilities depend on the version.
func branching(version int, _ []int32) []Choice {
	return []Choice{
		{"pull jade", 3},
		{"pull amber", 1 + float64(version)},
		{"pull", 1},
		{"look at the long corridor of doors", 2},
	}
}

func TestScriptedConforms(t *testing.T) {
	Run(t, func(*testing.T) Fixture {
		b := NewScripted(NewTokenizer(" jade", " amber", "pull"), branching)
		return Fixture{
			Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-6,
			Adapter: func(_ *testing.T, version int) sampler.Adapter { return b.Adapter(version) },
		}
	})
}
