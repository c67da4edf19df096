package fleet

import "github.com/empo2/empo2/sampler"

// Stats counts what a backend has done since it was opened, without canaries.
type Stats struct {
	Requests int64 `json:"requests"` // completions answered
	Sampled  int64 `json:"sampled"`  // tokens
	Retries  int64 `json:"retries"`  // requests sent again
	Returns  int64 `json:"returns"`  // replicas that were readmitted
	Late     int64 `json:"late"`     // requests that were late and sent to a second replica too
	Rescued  int64 `json:"rescued"`  // answers of these second replicas
}

type counters struct{ sampler.Tally[Stats] }

// Stats returns the counts. It is safe for concurrent use.
func (b *Backend) Stats() Stats { return b.counters.Counts() }

// LateRequests returns how many requests were sent to a second replica too.
func (b *Backend) LateRequests() int64 { return b.Stats().Late }

func (c *counters) add(s Stats) {
	c.Update(func(counts *Stats) {
		counts.Requests += s.Requests
		counts.Sampled += s.Sampled
		counts.Retries += s.Retries
		counts.Returns += s.Returns
		counts.Late += s.Late
		counts.Rescued += s.Rescued
	})
}

func (c *counters) answered(got sampler.Completion) {
	c.add(Stats{Requests: 1, Sampled: int64(len(got.IDs))})
}
