package llamacpp

import (
	"math"

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
	Late            int64 `json:"late"`             // requests that were late and sent to a second replica too
	Rescued         int64 `json:"rescued"`          // answers of these second replicas
}

type counters struct{ sampler.Tally[Stats] }

// Stats returns the counts. It is safe for concurrent use.
func (b *Backend) Stats() Stats { return b.counters.Counts() }

// LateRequests returns how many requests were sent to a second replica too.
func (b *Backend) LateRequests() int64 { return b.Stats().Late }

func (c *counters) add(s Stats) {
	c.Update(func(counts *Stats) {
		counts.Requests += s.Requests
		counts.PromptProcessed += s.PromptProcessed
		counts.PromptCached += s.PromptCached
		counts.Sampled += s.Sampled
		counts.Gaps += s.Gaps
		counts.Retries += s.Retries
		counts.Restarts += s.Restarts
		counts.Late += s.Late
		counts.Rescued += s.Rescued
	})
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
