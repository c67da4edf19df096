package main

import (
	"context"
	"slices"
	"sync"

	"github.com/empo2/empo2/sampler"
)

// sentPrompts is a backend that remembers the ids of prompts as it passes them on to
// the server. It is safe for concurrent use.
type sentPrompts struct {
	sampler.Backend

	mu  sync.Mutex
	ids map[uint64][]int32 // by the seed of the request
}

// Sample implements [sampler.Backend].
func (s *sentPrompts) Sample(ctx context.Context, p sampler.Policy, r sampler.Request) (sampler.Completion, error) {
	s.mu.Lock()
	if s.ids == nil {
		s.ids = map[uint64][]int32{}
	}
	s.ids[r.Seed] = slices.Clone(r.Prompt)
	s.mu.Unlock()
	return s.Backend.Sample(ctx, p, r)
}

// take returns the prompt of the request with a seed, and forgets it.
func (s *sentPrompts) take(seed uint64) []int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := s.ids[seed]
	delete(s.ids, seed)
	return ids
}
