package llamacpp

import (
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

func BenchmarkFakeSwaps(b *testing.B) {
	f := newFakes()
	backend, err := f.open(b, Config{Slots: 16})
	if err != nil {
		b.Fatal(err)
	}
	exact := samplertest.NewScripted(f.policy.Tokenizer, f.policy.Script)
	samplertest.BenchmarkFakeSwaps(b, backend, testRequest.Prompt, func(version int) sampler.Adapter {
		a := fakeAdapter(b, version)
		a.Score = exact.Adapter(version).Score
		return a
	})
}
