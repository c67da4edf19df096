package vllm

import (
	"testing"

	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkSwaps swaps a real vLLM's adapter 200 times while 64 requests are
// always in flight. One operation is all of it.
func BenchmarkSwaps(b *testing.B) {
	r := newReal(b)
	backend := r.launch(b, func(*Config) {})
	samplertest.BenchmarkSwaps(b, backend, r.swaps(b, backend, 200, 64))
}

// BenchmarkLogprobs reports the largest difference of a log-prob from torch's
// for the exact flags and for vLLM's own type of numbers.
func BenchmarkLogprobs(b *testing.B) {
	r := newReal(b)
	for _, exact := range []bool{true, false} {
		name := "default"
		if exact {
			name = "exact"
		}
		b.Run(name, func(b *testing.B) {
			backend := r.launch(b, func(c *Config) { c.Launch.Exact = exact })
			for b.Loop() {
				b.ReportMetric(r.difference(b, backend), "max-diff-nats")
			}
		})
	}
}
