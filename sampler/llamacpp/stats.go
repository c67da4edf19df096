package llamacpp

import (
	"math"
	"sync"

	"github.com/empo2/empo2/sampler"
)

// Stats counts what a backend did since it was opened, including the checks of
// its processes.
type Stats struct {
	Requests        int64 `json:"requests"`         // completions answered
	PromptProcessed int64 `json:"prompt_processed"` // prompt tokens computed
	PromptCached    int64 `json:"prompt_cached"`    // prompt tokens found in the slot
	Sampled         int64 `json:"sampled"`          // tokens
	Gaps            int64 `json:"gaps"`             // sampled tokens without a log-prob
	Retries         int64 `json:"retries"`          // requests sent again
	Restarts        int64 `json:"restarts"`         // processes replaced
}

type counters struct {
	mu  sync.Mutex
	now Stats
}

// Stats returns the counts. It is safe for concurrent use.
func (b *Backend) Stats() Stats {
	b.counters.mu.Lock()
	defer b.counters.mu.Unlock()
	return b.counters.now
}

func (c *counters) add(s Stats) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Requests += s.Requests
	c.now.PromptProcessed += s.PromptProcessed
	c.now.PromptCached += s.PromptCached
	c.now.Sampled += s.Sampled
	c.now.Gaps += s.Gaps
	c.now.Retries += s.Retries
	c.now.Restarts += s.Restarts
}

func (c *counters) count(a answer, got sampler.Completion) {
	s := Stats{Requests: 1, PromptProcessed: a.Processed, PromptCached: a.Cached, Sampled: int64(len(got.IDs))}
	for _, l := range got.Logprobs {
		if math.IsNaN(float64(l)) {
			s.Gaps++
		}
	}
	c.add(s)
}
