package ollama

import "sync"

// Stats counts what a backend did since it was opened.
type Stats struct {
	Requests     int64 `json:"requests"`      // completions answered
	PromptTokens int64 `json:"prompt_tokens"` // as the server counts them
	Sampled      int64 `json:"sampled"`       // tokens, as the server counts them
	// Truncated answers have no end: the server stops silently when a policy
	// repeats itself.
	Truncated int64 `json:"truncated"`
	// Rejoined prompts hold the same text and control tokens as their ids, but
	// the server reads their text as other ids.
	Rejoined int64 `json:"rejoined"`
	// Respelled answers have another number of tokens than the codec makes of
	// their text: the policy sampled other ids than those returned.
	Respelled int64 `json:"respelled"`
	// Longer prompts had more tokens for the server than were sent: it adds
	// some of its own.
	Longer  int64 `json:"longer"`
	Retries int64 `json:"retries"` // requests sent again
	// Swaps is how often requests of one version followed those of another:
	// each costs a reload of the model.
	Swaps int64 `json:"swaps"`
}

type counters struct {
	mu  sync.Mutex
	now Stats
}

// Stats may be called at any time.
func (b *Backend) Stats() Stats {
	b.counters.mu.Lock()
	defer b.counters.mu.Unlock()
	return b.counters.now
}

// update lets f change the statistics.
func (c *counters) update(f func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.now)
}

func (c *counters) swapped() { c.update(func(s *Stats) { s.Swaps++ }) }
