package openai

// Stats counts what a backend did since it was opened, including the request of
// Publish.
type Stats struct {
	Requests     int64  `json:"requests"`      // completions answered
	PromptTokens int64  `json:"prompt_tokens"` // as the server counts and may bill them
	Sampled      int64  `json:"sampled"`       // tokens, thoughts that are not shown included
	Cut          int64  `json:"cut"`           // answers that the length ended
	Odd          int64  `json:"odd"`           // answers that something else ended than stop or length
	Empty        int64  `json:"empty"`         // answers without text
	Retries      int64  `json:"retries"`       // requests sent again
	Model        string `json:"model"`         // that the last answer named; it may differ from the one asked for
}

// Stats may be called at any time.
func (b *Backend) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stats
}

func (b *Backend) count(a answer, finish string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &b.stats
	s.Requests++
	s.PromptTokens += a.Usage.Prompt
	s.Sampled += a.Usage.Completion
	s.Model = a.Model
	switch finish {
	case "stop":
	case "length", "":
		s.Cut++
	default:
		s.Odd++
	}
	if a.Choices[0].Message.Content == "" {
		s.Empty++
	}
}

func (b *Backend) repeated() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Retries++
}
