package ollama

import "github.com/empo2/empo2/sampler"

// Stats counts what a backend did since it was opened.
type Stats struct {
	Requests     int64 `json:"requests"`      // completions answered
	PromptTokens int64 `json:"prompt_tokens"` // as the server counts them
	Sampled      int64 `json:"sampled"`       // tokens, as the server counts them
	// Truncated answers are incomplete: the server stops without an error if a
	// policy repeats itself.
	Truncated int64 `json:"truncated"`
	// Rejoined prompts have the text and control tokens of their ids, but the server
	// encodes the text as other ids.
	Rejoined int64 `json:"rejoined"`
	// Respelled answers have another number of tokens than the codec's encoding of
	// their text: the policy sampled other ids than those returned.
	Respelled int64 `json:"respelled"`
	// Longer prompts have more tokens for the server than were sent, because it adds
	// some.
	Longer  int64 `json:"longer"`
	Retries int64 `json:"retries"` // requests sent again
	// Swaps counts changes of version, each with a reload of the model.
	Swaps int64 `json:"swaps"`
}

type counters struct{ sampler.Tally[Stats] }

// Stats returns the counts. It is safe for concurrent use.
func (b *Backend) Stats() Stats { return b.counters.Counts() }

func (c *counters) swapped() { c.Update(func(s *Stats) { s.Swaps++ }) }
