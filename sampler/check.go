package sampler

import "fmt"

// CheckIDs refuses a request that a server with token ids cannot answer or
// would silently change. Some servers lower max_tokens at the end of the
// context.
func (r Request) CheckIDs(c Capabilities) error {
	switch n := c.ContextLength; {
	case len(r.Prompt) == 0 || r.MaxTokens < 1:
		return fmt.Errorf("%d prompt tokens and %d to sample: both must be positive", len(r.Prompt), r.MaxTokens)
	case len(r.Prompt)+r.MaxTokens > n:
		return fmt.Errorf("%w: %d prompt tokens and %d to sample, context of %d",
			ErrContextFull, len(r.Prompt), r.MaxTokens, n)
	}
	if err := r.CheckSampling(c); err != nil {
		return err
	}
	return c.CheckVocabulary(r.Prompt)
}

// CheckVocabulary returns an error if an id is outside the vocabulary.
func (c Capabilities) CheckVocabulary(ids []int32) error {
	for i, id := range ids {
		if id < 0 || c.VocabSize > 0 && int(id) >= c.VocabSize {
			return fmt.Errorf("id %d at position %d is outside the vocabulary of %d", id, i, c.VocabSize)
		}
	}
	return nil
}
