package sglang

import (
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func BenchmarkFakeSwaps(b *testing.B) {
	prompt := []int32{samplertest.Start, 50, samplertest.End}
	samplertest.BenchmarkFakeSwaps(b, openFake(b, config(newFake(b))), prompt, func(version int) sampler.Adapter {
		return fakeserver.WriteAdapter(b, policy, version)
	})
}
