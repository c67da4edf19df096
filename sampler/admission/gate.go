package admission

import (
	"context"
	"sync"
)

// A Gate counts the requests in flight of one policy. A closed gate refuses new
// requests. It is safe for concurrent use. Create it with [NewGate].
type Gate struct {
	drained chan struct{}

	mu       sync.Mutex
	inFlight int
	closed   bool
}

// NewGate returns an open gate.
func NewGate() *Gate { return &Gate{drained: make(chan struct{})} }

// Enter admits a request, which must call Leave. It returns false if the gate is
// closed.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inFlight++
	}
	return !g.closed
}

// Leave ends a request.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
	g.closeIfDrained()
}

// Close refuses all further requests. It returns false if the gate was closed
// before.
func (g *Gate) Close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.closed = true
	g.closeIfDrained()
	return true
}

func (g *Gate) closeIfDrained() {
	if g.closed && g.inFlight == 0 {
		close(g.drained)
	}
}

// Closed says whether the gate is closed.
func (g *Gate) Closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.closed
}

// InFlight returns the number of requests that entered and did not leave.
func (g *Gate) InFlight() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inFlight
}

// Drained is closed when the gate is closed and no request is in flight.
func (g *Gate) Drained() <-chan struct{} { return g.drained }

// Drain waits until the gate is closed and no request is in flight.
func (g *Gate) Drain(ctx context.Context) error {
	select {
	case <-g.drained:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
