package fleet

import (
	"sync"

	"github.com/empo2/empo2/sampler"
)

// Stats counts what a backend has done since it was opened, without canaries.
type Stats struct {
	Requests int64 `json:"requests"` // completions answered
	Sampled  int64 `json:"sampled"`  // tokens
	Retries  int64 `json:"retries"`  // requests sent again
	Returns  int64 `json:"returns"`  // replicas that were readmitted
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
	c.now.Sampled += s.Sampled
	c.now.Retries += s.Retries
	c.now.Returns += s.Returns
}

func (c *counters) answered(got sampler.Completion) {
	c.add(Stats{Requests: 1, Sampled: int64(len(got.IDs))})
}
