package ollama

import (
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func BenchmarkFakeSwaps(b *testing.B) {
	s := newFake(b, script)
	exact := samplertest.NewScripted(s.Policy.Tokenizer, s.Policy.Script)
	backend := openFake(b, s, func(*Config) {})
	samplertest.BenchmarkFakeSwaps(b, backend, prompt(b, s, "Go on."), func(version int) sampler.Adapter {
		a := s.Adapter(b, version)
		a.Score = exact.Adapter(version).Score
		return a
	})
}
