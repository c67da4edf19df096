package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// current tells many goroutines which process a Local uses now. The zero value
// stands for one that was never started.
type current struct {
	mu      sync.Mutex
	process *Process      // nil while there is none
	why     error         // there is none and none is about to come
	changed chan struct{} // closed with the next change; nil if nobody waits
}

var errNotStarted = errors.New("it was not started yet")

// set announces a process that is ready.
func (c *current) set(p *Process) { c.change(p, nil) }

// expect says that a process is about to come.
func (c *current) expect() { c.change(nil, nil) }

// lost says why there will be none.
func (c *current) lost(why error) { c.change(nil, why) }

func (c *current) change(p *Process, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	close(c.changed)
	c.process, c.why, c.changed = p, why, make(chan struct{})
}

// get waits for a process that runs: one that died is replaced when its Local
// is used next.
func (c *current) get(ctx context.Context) (*Process, error) {
	for {
		p, changed, err := c.look()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if p != nil && p.Err() == nil {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if p != nil {
				return nil, fmt.Errorf("%w (%w)", p.Err(), context.Cause(ctx))
			}
			return nil, fmt.Errorf("%w: it is being started (%w)", ErrUnavailable, context.Cause(ctx))
		}
	}
}

func (c *current) look() (*Process, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil { // nothing ever happened
		return nil, nil, errNotStarted
	}
	return c.process, c.changed, c.why
}
