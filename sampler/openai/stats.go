package openai

import "slices"

// Stats counts what a backend did since it was opened, including the request of
// Publish.
type Stats struct {
	Requests     int64  `json:"requests"`      // completions answered
	PromptTokens int64  `json:"prompt_tokens"` // as counted, and perhaps billed, by the server
	Sampled      int64  `json:"sampled"`       // tokens, including hidden thoughts
	Cut          int64  `json:"cut"`           // answers that ended at the token limit
	Odd          int64  `json:"odd"`           // answers whose finish reason is neither stop nor a limit
	Empty        int64  `json:"empty"`         // answers without text
	Retries      int64  `json:"retries"`       // requests sent again
	Model        string `json:"model"`         // named in the last answer; it may differ from the requested one
	// LeftOut are the parameters that the server refuses and that are no longer sent, such as "seed".
	LeftOut []string `json:"left_out,omitempty"`
}

// Stats returns the counts. It is safe for concurrent use.
func (b *Backend) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stats
	s.LeftOut = slices.Clone(s.LeftOut)
	return s
}

func (b *Backend) count(a answer, finish string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.stats
	s.Requests++
	s.PromptTokens += a.Usage.Prompt
	s.Sampled += a.Usage.Completion
	s.Model = a.Model
	switch {
	case cutOff(finish):
		s.Cut++
	case finish != "stop":
		s.Odd++
	}
	if a.Choices[0].Message.Content == "" {
		s.Empty++
	}
}

func (b *Backend) countRetry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Retries++
}
