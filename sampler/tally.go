package sampler

import "sync"

// A Tally has the counts of a backend. It is safe for concurrent use. The zero
// value is ready to use.
type Tally[Counts any] struct {
	mu     sync.Mutex
	counts Counts
}

// Update calls f to change the counts.
func (t *Tally[Counts]) Update(f func(*Counts)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(&t.counts)
}

// Counts returns a copy of the counts.
func (t *Tally[Counts]) Counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}
