package samplertest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// SwapConfig configures [Swap].
type SwapConfig struct {
	Swaps     int
	InFlight  int       // number of requests in flight at all times
	Prompts   [][]int32 // of the greedy requests, used in turn
	MaxTokens int
	Tolerance float64 // of log-probs against Adapter.Score, in nats
	// Adapter returns a version ≥ 1 with a Score. content identifies its weights, so that equal completions of equal
	// weights are scored once.
	Adapter func(version int) (a sampler.Adapter, content int)
	// Resident counts the adapters that the server has loaded; nil: not counted.
	Resident func() int
}

// SwapReport is the result of [Swap]. Durations are sorted.
type SwapReport struct {
	Requests int // answered under load
	Failed   int
	Wrong    int             // answered by other weights than requested
	Publish  []time.Duration // until Publish returned
	First    []time.Duration // from the call of Publish to the first token of the new version
	Request  []time.Duration // of one request under load
	Gap      time.Duration   // longest time without an answer
	Resident int             // maximum number of loaded adapters
	MaxDiff  float64         // largest difference of a log-prob from Score, in nats
	Elapsed  time.Duration
	Err      error // of the first request that failed
}

// Quantile returns a quantile of sorted durations, or 0 if there are none.
func Quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Swap publishes one version after the other and retires the version before, under a constant load of requests. Then it
// compares every answer with the Score of its version. It returns the first error of a swap.
func Swap(ctx context.Context, b sampler.Backend, cfg SwapConfig) (SwapReport, error) {
	s := &swapping{cfg: cfg, b: b, answers: map[string]int{}, first: map[string]answer{},
		adapters: map[int]sampler.Adapter{}, contents: map[int]int{}}
	base, err := b.Publish(ctx, sampler.Adapter{})
	if err != nil {
		return SwapReport{}, err
	}
	if err := s.publishNext(ctx, 1); err != nil { // the load uses only adapters
		return SwapReport{}, err
	}
	stop := make(chan struct{})
	started := time.Now()
	s.report.Publish, s.report.First, s.last = nil, nil, started
	var load sync.WaitGroup
	for i := range cfg.InFlight {
		load.Go(func() { s.load(ctx, stop, i) })
	}
	for version := 2; version <= cfg.Swaps+1 && err == nil; version++ {
		err = s.publishNext(ctx, version)
	}
	close(stop)
	load.Wait()
	s.report.Elapsed = time.Since(started)
	if err == nil {
		err = s.retired.Wait()
	}
	if err == nil {
		err = s.score(ctx)
	}
	if err == nil {
		err = b.Retire(ctx, base)
	}
	slices.Sort(s.report.Publish)
	slices.Sort(s.report.First)
	slices.Sort(s.report.Request)
	return s.report, err
}

// answer is a completion of a version for the prompt with this index.
type answer struct {
	version, prompt int
	completion      sampler.Completion
}

// swapping is the state of one call of Swap.
type swapping struct {
	cfg     SwapConfig
	b       sampler.Backend
	current atomic.Pointer[sampler.Policy]
	retired errgroup.Group

	mu       sync.Mutex
	report   SwapReport
	last     time.Time               // time of the latest answer
	answers  map[string]int          // number of equal answers, by key
	first    map[string]answer       // the first of equal answers, by key
	adapters map[int]sampler.Adapter // by content
	contents map[int]int             // by version
}

// publishNext publishes a version, samples its first token and retires the version before.
func (s *swapping) publishNext(ctx context.Context, version int) error {
	a, content := s.cfg.Adapter(version)
	a.Version = version
	s.mu.Lock()
	s.adapters[content], s.contents[version] = a, content
	s.mu.Unlock()
	began := time.Now()
	p, err := s.b.Publish(ctx, a)
	if err != nil {
		return err
	}
	published := time.Since(began)
	before := s.current.Swap(&p)
	if _, err := s.b.Sample(ctx, p, sampler.Request{Prompt: s.cfg.Prompts[0], MaxTokens: 1}); err != nil {
		return err
	}
	first := time.Since(began)
	resident := 0
	if s.cfg.Resident != nil {
		resident = s.cfg.Resident()
	}
	s.mu.Lock()
	s.report.Publish = append(s.report.Publish, published)
	s.report.First = append(s.report.First, first)
	s.report.Resident = max(s.report.Resident, resident)
	s.mu.Unlock()
	if before != nil {
		s.retired.Go(func() error { return s.b.Retire(ctx, *before) })
	}
	return nil
}

// load sends one request after the other to the newest version.
func (s *swapping) load(ctx context.Context, stop <-chan struct{}, i int) {
	for k := i; ; k++ {
		select {
		case <-stop:
			return
		default:
		}
		p, prompt := *s.current.Load(), k%len(s.cfg.Prompts)
		began := time.Now()
		c, err := s.b.Sample(ctx, p,
			sampler.Request{Prompt: s.cfg.Prompts[prompt], MaxTokens: s.cfg.MaxTokens, Session: strconv.Itoa(i)})
		s.record(answer{p.Version, prompt, c}, p, time.Since(began), err)
	}
}

// record adds an answer to the report.
func (s *swapping) record(a answer, p sampler.Policy, took time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.report.Failed++
		if s.report.Err == nil {
			s.report.Err = err
		}
		return
	}
	now := time.Now()
	s.report.Gap, s.last = max(s.report.Gap, now.Sub(s.last)), now
	s.report.Requests++
	s.report.Request = append(s.report.Request, took)
	if a.completion.Policy != p {
		s.report.Wrong++
		return
	}
	// Log-probs of the same weights differ only by rounding, depending on the batch. Those of other weights differ by
	// far more.
	key := fmt.Sprint(s.contents[a.version], a.prompt, a.completion.IDs)
	for _, l := range a.completion.Logprobs {
		key += fmt.Sprintf(" %.3f", l)
	}
	s.answers[key]++
	s.first[key] = a
}

// score compares the answers with the trainer's log-probs.
func (s *swapping) score(ctx context.Context) error {
	for key, a := range s.first {
		prompt := s.cfg.Prompts[a.prompt]
		want, err := s.adapters[s.contents[a.version]].Score(ctx, slices.Concat(prompt, a.completion.IDs))
		if err != nil {
			return err
		}
		d := MaxDiff(a.completion.Logprobs, want[len(prompt)-1:])
		s.report.MaxDiff = math.Max(s.report.MaxDiff, d)
		if d > s.cfg.Tolerance {
			s.report.Wrong += s.answers[key]
		}
	}
	return nil
}

// BenchmarkSwaps runs [Swap] once and reports the result as metrics of a benchmark.
func BenchmarkSwaps(b *testing.B, backend sampler.Backend, cfg SwapConfig) {
	b.Helper()
	var r SwapReport
	for b.Loop() {
		var err error
		if r, err = Swap(b.Context(), backend, cfg); err != nil {
			b.Fatal(err)
		}
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(float64(cfg.Swaps), "swaps")
	b.ReportMetric(float64(r.Requests), "requests")
	b.ReportMetric(float64(r.Failed), "failed")
	b.ReportMetric(float64(r.Wrong), "wrong")
	b.ReportMetric(ms(Quantile(r.Publish, 0.5)), "publish-p50-ms")
	b.ReportMetric(ms(Quantile(r.First, 0.5)), "first-token-p50-ms")
	b.ReportMetric(ms(Quantile(r.First, 0.99)), "first-token-p99-ms")
	b.ReportMetric(ms(Quantile(r.Request, 0.5)), "request-p50-ms")
	b.ReportMetric(ms(Quantile(r.Request, 0.99)), "request-p99-ms")
	b.ReportMetric(ms(r.Gap), "longest-gap-ms")
	b.ReportMetric(float64(r.Resident), "resident")
	b.ReportMetric(r.MaxDiff, "max-diff-nats")
	b.ReportMetric(float64(r.Requests)/r.Elapsed.Seconds(), "requests/s")
	if r.Err != nil {
		b.Log(r.Err)
	}
}

// BenchmarkFakeSwaps is [BenchmarkSwaps] for a backend over fake servers in this process: 20 swaps while 32 requests
// are in flight. It measures the backend and the protocol, and nothing of a model.
func BenchmarkFakeSwaps(
	b *testing.B, backend sampler.Backend, prompt []int32, adapter func(version int) sampler.Adapter,
) {
	b.Helper()
	BenchmarkSwaps(b, backend, SwapConfig{Swaps: 20, InFlight: 32, Prompts: [][]int32{prompt}, MaxTokens: 8,
		Tolerance: 1e-3, Adapter: func(version int) (sampler.Adapter, int) { return adapter(version), version }})
}
