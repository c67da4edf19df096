package ollama

import (
	"context"
	"slices"
	"sync"
)

// turns lets the requests of one model through at a time, up to a limit.
// Others wait in line. When the model changes, all that wait for the next one
// go before those that wait for others: reloads are few, and nobody waits for
// more than what stood in line before.
type turns struct {
	limit   int
	swapped func() // the model changes

	mu       sync.Mutex
	now      string // model whose turn it is; empty before the first
	inFlight int
	line     []*turn
}

type turn struct {
	model string
	in    chan struct{} // closed when it may begin
}

func newTurns(limit int, swapped func()) *turns { return &turns{limit: limit, swapped: swapped} }

// acquire waits for the model's turn; release ends it.
func (t *turns) acquire(ctx context.Context, model string) error {
	w := &turn{model, make(chan struct{})}
	t.mu.Lock()
	t.line = append(t.line, w)
	t.advance()
	t.mu.Unlock()
	select {
	case <-w.in:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.line, w); i >= 0 {
		t.line = slices.Delete(t.line, i, i+1)
	} else {
		t.inFlight-- // it got in meanwhile
	}
	t.advance()
	return context.Cause(ctx)
}

func (t *turns) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inFlight--
	t.advance()
}

// advance lets in who may begin.
func (t *turns) advance() {
	if len(t.line) > 0 && t.inFlight == 0 && t.line[0].model != t.now {
		if t.now != "" {
			t.swapped()
		}
		t.now = t.line[0].model
		slices.SortStableFunc(t.line, func(a, b *turn) int { return t.rank(a) - t.rank(b) })
	}
	for len(t.line) > 0 && t.inFlight < t.limit && t.line[0].model == t.now {
		close(t.line[0].in)
		t.line = t.line[1:]
		t.inFlight++
	}
}

// rank is 0 for the model whose turn it is.
func (t *turns) rank(w *turn) int {
	if w.model == t.now {
		return 0
	}
	return 1
}

// current is the model that is loaded, as far as is known.
func (t *turns) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}
