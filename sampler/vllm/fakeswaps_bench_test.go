package vllm

import (
	"testing"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

func BenchmarkFakeSwaps(b *testing.B) {
	_, urls := fakes(b, 1)
	samplertest.BenchmarkFakeSwaps(b, openFake(b, config(urls)), testRequest.Prompt, func(version int) sampler.Adapter {
		return fakeserver.WriteAdapter(b, policy, version)
	})
}
