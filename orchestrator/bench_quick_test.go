package orchestrator

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// benchLogprob is the log-prob of every token of the benchmarks' policy.
const benchLogprob = -0.1

// quick is a backend in this process that costs next to nothing: replies are ready, and every call sleeps a random
// time. It records the sleeps by session.
type quick struct {
	tokenizer *samplertest.Tokenizer
	reply     func(r sampler.Request) string
	sleep     time.Duration // the longest of a call; 0: none

	mu     sync.Mutex
	slept  map[string][]time.Duration
	cached map[string]sampler.Completion
}

var _ sampler.Backend = (*quick)(nil)

func (q *quick) Capabilities(context.Context) (sampler.Capabilities, error) {
	return sampler.Capabilities{Server: "quick", IDsIn: true, IDsOut: true, Logprobs: true, LogprobSpace: "raw",
		StopStrings: true, Adapters: "runtime", AdapterFormat: "none", Parallel: 1 << 20}, nil
}

func (q *quick) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	text := q.reply(r)
	pause := time.Duration(float64(q.sleep) * rand.New(rand.NewPCG(r.Seed, 1)).Float64())
	q.mu.Lock()
	c, ok := q.cached[text]
	if !ok {
		ids, _ := coarse{q.tokenizer}.Tokenize(ctx, text) // never fails
		c = sampler.Completion{IDs: append(ids, samplertest.End), Text: text, Finish: sampler.FinishStop}
		c.Logprobs = slices.Repeat([]float32{benchLogprob}, len(c.IDs))
		q.cached[text] = c
	}
	if q.sleep > 0 {
		q.slept[r.Session] = append(q.slept[r.Session], pause)
	}
	q.mu.Unlock()
	if q.sleep > 0 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return c, context.Cause(ctx)
		}
	}
	c.Policy = p
	return c, nil
}

func (q *quick) Publish(_ context.Context, a sampler.Adapter) (sampler.Policy, error) {
	return sampler.Policy{Version: a.Version, Name: samplertest.Name(a.Version)}, nil
}

func (q *quick) Retire(context.Context, sampler.Policy) error { return nil }
func (q *quick) Close() error                                 { return nil }

// quickTrainer is a trainer that costs next to nothing.
type quickTrainer struct{ fakeTrainer }

func (f *quickTrainer) ForwardBackward(_ context.Context, rows []trainerbridge.Row, _ trainerbridge.Loss) (
	trainerbridge.Stats, [][]float32, error) {
	out := make([][]float32, len(rows))
	for i, r := range rows {
		out[i] = r.Logprobs[1:]
	}
	return trainerbridge.Stats{"tokens:sum": 1, "ratio:sum": 1}, out, nil
}

func (f *quickTrainer) Forward(_ context.Context, rows []trainerbridge.Row) ([][]float32, error) {
	out := make([][]float32, len(rows))
	for i, r := range rows {
		out[i] = slices.Repeat([]float32{benchLogprob}, len(r.Tokens)-1)
	}
	return out, nil
}
