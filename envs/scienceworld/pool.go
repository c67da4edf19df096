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

// A hosted is a host with the state that the pool needs. The pool's mutex guards it.
type hosted struct {
	host  host
	count int  // number of its instances
	dead  bool // killed; its instances cannot be used
}

// A pool has simulators and lends each to one episode at a time. It creates
// simulators when needed, up to a fixed number, and replaces broken ones. It is safe
// for concurrent use.
type pool struct {
	launch  func(context.Context) (host, error)
	perHost int

	inUse   chan struct{} // one element per instance that is lent or created
	growing chan struct{} // held while a host or an instance is created
	closed  chan struct{} // closed by close
	mu      sync.Mutex
	idle    []*instance // the most recently used last
	hosts   []*hosted
}

var (
	errClosed = errors.New("the environment is closed")
	errKilled = errors.New("the JVM was killed while it created a simulator")
)

func newPool(size, perHost int, launch func(context.Context) (host, error)) *pool {
	return &pool{
		launch: launch, perHost: perHost,
		inUse: make(chan struct{}, size), growing: make(chan struct{}, 1),
		closed: make(chan struct{}),
	}
}

// acquire lends an instance. It waits while all are lent.
func (p *pool) acquire(ctx context.Context) (*instance, error) {
	select {
	case p.inUse <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	inst, err := p.fill(ctx)
	if err != nil {
		<-p.inUse
	}
	return inst, err
}

// release returns an instance, which may be broken.
func (p *pool) release(inst *instance) {
	p.put(inst)
	<-p.inUse
}

// replace returns a broken instance and lends another one. After an error the caller
// has no instance.
func (p *pool) replace(ctx context.Context, inst *instance) (*instance, error) {
	p.put(inst)
	fresh, err := p.fill(ctx)
	if err != nil {
		<-p.inUse
	}
	return fresh, err
}

// with calls f with an instance.
func (p *pool) with(ctx context.Context, f func(*simulator) error) error {
	inst, err := p.acquire(ctx)
	if err != nil {
		return err
	}
	defer p.release(inst)
	return f(inst.simulator)
}

// put returns an instance and leaves inUse unchanged. If the instance is broken, its
// host is killed: whether one simulator or the whole JVM hangs cannot be known from outside.
func (p *pool) put(inst *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch h := inst.on; {
	case h.dead:
	case inst.broken():
		p.removeHost(h)
	default:
		p.idle = append(p.idle, inst)
	}
}

// removeHost kills a host and drops its idle instances. The caller holds p.mu.
func (p *pool) removeHost(h *hosted) {
	h.dead = true
	p.hosts = slices.DeleteFunc(p.hosts, func(o *hosted) bool { return o == h })
	p.idle = slices.DeleteFunc(p.idle, func(i *instance) bool { return i.on == h })
	h.host.kill()
}

// fill takes the most recently used idle instance, or creates an instance.
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

// grow creates an instance, on a new host if all others are full. The error is
// errKilled if the host was killed meanwhile because of another instance. The caller
// holds p.growing.
func (p *pool) grow(ctx context.Context) (*instance, error) {
	h, err := p.hostWithRoom(ctx)
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
		p.removeHost(h)
		return nil, err
	}
	return &instance{simulator: sim, on: h}, nil
}

// hostWithRoom finds or starts a host, and reserves an instance on it.
func (p *pool) hostWithRoom(ctx context.Context) (*hosted, error) {
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

// close ends all hosts. No instance may be lent.
func (p *pool) close() {
	close(p.closed)
	p.growing <- struct{}{} // never released, so no instance is created after this
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		h.dead = true
		h.host.close()
	}
	p.hosts, p.idle = nil, nil
}
