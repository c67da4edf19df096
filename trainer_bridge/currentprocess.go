package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// current is the process that a Local uses now. Many goroutines may wait for it.
// The zero value means that none was started yet.
type current struct {
	mu      sync.Mutex
	process *Process      // nil while there is none
	lostWhy error         // why no process will be started; nil: one is being started
	changed chan struct{} // closed with the next change; nil before the first
}

var errNotStarted = errors.New("it was not started yet")

// set announces a process that is ready.
func (c *current) set(p *Process) { c.change(p, nil) }

// expect announces that a process is being started.
func (c *current) expect() { c.change(nil, nil) }

// lost announces that no process will be started, and why.
func (c *current) lost(why error) { c.change(nil, why) }

func (c *current) change(p *Process, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	close(c.changed)
	c.process, c.lostWhy, c.changed = p, why, make(chan struct{})
}

// get waits for a running process. The Local replaces a process that died when
// it is used next.
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
	if c.changed == nil {
		return nil, nil, errNotStarted
	}
	return c.process, c.changed, c.lostWhy
}
