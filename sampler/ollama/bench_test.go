package ollama

import (
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// BenchmarkInFlight keeps 256 requests in flight at a fake server that answers
// immediately. One operation is one request, including the work of the server.
func BenchmarkInFlight(b *testing.B) {
	const inFlight = 256
	s := newFake(b, script)
	backend := openFake(b, s, func(c *Config) { c.MaxInFlight = inFlight })
	p := publish(b, backend, sampler.Adapter{})
	r := sampler.Request{Prompt: prompt(b, s, "Levers: jade, bone. Door 1 of 2 is iron."), MaxTokens: 9, Temperature: 1}
	b.ReportAllocs()
	var next atomic.Int64
	var group errgroup.Group
	b.ResetTimer()
	for range inFlight {
		group.Go(func() error {
			for next.Add(1) <= int64(b.N) {
				if _, err := backend.Sample(b.Context(), p, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(backend.client.transport.Dials()), "connections")
}
