package llamacpp

import (
	"math"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// BenchmarkLogprobs reports the largest difference between the log-probs of
// llama-server and torch, for the base model and an adapter, with exact attention
// and with llama.cpp's default.
func BenchmarkLogprobs(b *testing.B) {
	r := newReal(b)
	r.startOracle(b)
	versions := []sampler.Adapter{{Score: r.oracle.Score("")}, r.adapter(b, 1)}
	for _, exact := range []bool{true, false} {
		b.Run("exact="+strconv.FormatBool(exact), func(b *testing.B) {
			cfg := r.config()
			cfg.ExactLogprobs = exact
			backend := r.open(b, cfg)
			var worst float64
			for b.Loop() {
				for _, a := range versions {
					worst = math.Max(worst, difference(b, backend, a))
				}
			}
			b.ReportMetric(worst, "max-diff-nats")
		})
	}
}

// difference returns the largest difference between the log-probs of 32 completions
// and the trainer's.
func difference(b *testing.B, backend *Backend, a sampler.Adapter) (worst float64) {
	p, err := backend.Publish(b.Context(), a)
	if err != nil {
		b.Fatal(err)
	}
	requests, answers := make([]sampler.Request, 32), make([]sampler.Completion, 32)
	var group errgroup.Group
	for i := range requests {
		prompt := tokens(b, backend, "Room "+strconv.Itoa(i*i)+": a lever, a door and a sign.")
		requests[i] = sampler.Request{Prompt: prompt, MaxTokens: 24, Temperature: 1, Seed: uint64(i)}
		group.Go(func() (err error) { answers[i], err = backend.Sample(b.Context(), p, requests[i]); return err })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	for i, c := range answers {
		want, err := a.Score(b.Context(), slices.Concat(requests[i].Prompt, c.IDs))
		if err != nil {
			b.Fatal(err)
		}
		worst = math.Max(worst, samplertest.MaxDiff(c.Logprobs, want[len(requests[i].Prompt)-1:]))
	}
	return worst
}
