package scienceworld

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// An instance is a simulator of the pool.
type instance struct {
	*simulator
	on *hosted
}

// A hosted is a host with the pool's book-keeping. The pool's mutex guards it.
type hosted struct {
	host  host
	count int  // instances made and not lost
	dead  bool // killed: its instances are of no use
}

// A pool keeps simulators warm, and lends each to one episode at a time. It
// makes them when they are asked for, up to a fixed number, and replaces those
// that broke. Safe for concurrent use.
type pool struct {
	launch  func(context.Context) (host, error)
	perHost int

	slots   chan struct{} // one per instance lent or being made
	growing chan struct{} // held while a host or an instance is made
	closed  chan struct{} // closed by close
	mu      sync.Mutex
	idle    []*instance // the warmest last
	hosts   []*hosted
}

var (
	errClosed = errors.New("the environment is closed")
	errKilled = errors.New("the JVM was killed while it made a simulator")
)

func newPool(size, perHost int, launch func(context.Context) (host, error)) *pool {
	return &pool{
		launch: launch, perHost: perHost,
		slots: make(chan struct{}, size), growing: make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
}

// acquire lends an instance; it waits while all are lent.
func (p *pool) acquire(ctx context.Context) (*instance, error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	inst, err := p.fill(ctx)
	if err != nil {
		<-p.slots
	}
	return inst, err
}

// release takes an instance back, broken or not.
func (p *pool) release(inst *instance) {
	p.put(inst)
	<-p.slots
}

// replace exchanges a broken instance for another one, under the same slot.
// After an error the slot is free again.
func (p *pool) replace(ctx context.Context, inst *instance) (*instance, error) {
	p.put(inst)
	fresh, err := p.fill(ctx)
	if err != nil {
		<-p.slots
	}
	return fresh, err
}

// with lends an instance to f.
func (p *pool) with(ctx context.Context, f func(*simulator) error) error {
	inst, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(inst)
	return f(inst.simulator)
}

// put returns an instance without its slot. A broken one takes its host down:
// whether one simulator hangs or the whole JVM cannot be told from outside.
func (p *pool) put(inst *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch h := inst.on; {
	case h.dead:
	case inst.broken():
		p.bury(h)
	default:
		p.idle = append(p.idle, inst)
	}
}

// bury kills a host and forgets its idle instances. The caller holds p.mu.
func (p *pool) bury(h *hosted) {
	h.dead = true
	p.hosts = slices.DeleteFunc(p.hosts, func(o *hosted) bool { return o == h })
	p.idle = slices.DeleteFunc(p.idle, func(i *instance) bool { return i.on == h })
	h.host.kill()
}

// fill takes the warmest idle instance or makes a new one.
func (p *pool) fill(ctx context.Context) (*instance, error) {
	if inst := p.pop(); inst != nil {
		return inst, nil
	}
	select {
	case p.growing <- struct{}{}:
	case <-p.closed:
		return nil, errClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-p.growing }()
	if inst := p.pop(); inst != nil { // returned while we waited
		return inst, nil
	}
	for {
		inst, err := p.grow(ctx)
		if !errors.Is(err, errKilled) || ctx.Err() != nil {
			return inst, err
		}
	}
}

func (p *pool) pop() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	inst := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return inst
}

// grow makes an instance, on a new host if every other one is full. The error
// is errKilled if another instance's failure took the host away meanwhile.
// The caller holds p.growing.
func (p *pool) grow(ctx context.Context) (*instance, error) {
	h, err := p.roomyHost(ctx)
	if err != nil {
		return nil, err
	}
	sim, err := h.host.open(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.dead {
		return nil, errKilled
	}
	if err != nil {
		p.bury(h)
		return nil, err
	}
	return &instance{simulator: sim, on: h}, nil
}

// roomyHost finds or starts a host, and counts one more instance on it.
func (p *pool) roomyHost(ctx context.Context) (*hosted, error) {
	if h := p.reserve(); h != nil {
		return h, nil
	}
	started, err := p.launch(ctx)
	if err != nil {
		return nil, err
	}
	h := &hosted{host: started, count: 1}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hosts = append(p.hosts, h)
	return h, nil
}

func (p *pool) reserve() *hosted {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		if h.count < p.perHost {
			h.count++
			return h
		}
	}
	return nil
}

// close ends all hosts. Nothing may be lent any more.
func (p *pool) close() {
	close(p.closed)
	p.growing <- struct{}{} // for ever: nothing grows after this
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		h.dead = true
		h.host.close()
	}
	p.hosts, p.idle = nil, nil
}
