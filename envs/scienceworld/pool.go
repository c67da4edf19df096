package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/empo2/empo2/orchestrator/process"
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
// simulators when needed, up to a fixed number, and replaces broken ones, within the
// budget of restarts of its hosts. It is safe for concurrent use.
type pool struct {
	launch  func(context.Context) (host, error)
	perHost int
	budget  process.Budget // used by the holder of growing

	inUse   chan struct{} // one element per instance that is lent or created
	growing chan struct{} // held while a host or an instance is created
	closed  chan struct{} // closed by close
	mu      sync.Mutex
	idle    []*instance // the most recently used last
	hosts   []*hosted
	lost    []error // why hosts are gone that were not replaced yet
}

var (
	errClosed = errors.New("the environment is closed")
	errKilled = errors.New("the JVM was killed while it created a simulator")
)

// newPool returns a pool of size simulators. Each of its hosts has the budget, once
// for every try of an action that breaks all simulators: such an action must cost its
// episode only.
func newPool(size, perHost int, budget process.Budget, launch func(context.Context) (host, error)) *pool {
	hosts := (size + perHost - 1) / perHost
	budget.Restarts *= hosts * (1 + maxReplays)
	return &pool{
		launch: launch, perHost: perHost, budget: budget,
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
		p.removeHost(h, inst.gw.err)
	default:
		p.idle = append(p.idle, inst)
	}
}

// removeHost kills a host and drops its idle instances. The caller holds p.mu.
func (p *pool) removeHost(h *hosted, why error) {
	h.dead = true
	p.lost = append(p.lost, why)
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
		p.removeHost(h, err)
		return nil, err
	}
	return &instance{simulator: sim, on: h}, nil
}

// hostWithRoom finds or starts a host, and reserves an instance on it.
func (p *pool) hostWithRoom(ctx context.Context) (*hosted, error) {
	if h := p.reserve(); h != nil {
		return h, nil
	}
	started, err := p.start(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.lost = append(p.lost, err)
		return nil, err
	}
	h := &hosted{host: started, count: 1}
	p.hosts = append(p.hosts, h)
	return h, nil
}

// start starts a host. If another one was lost, this is a restart. The caller holds
// p.growing.
func (p *pool) start(ctx context.Context) (started host, err error) {
	if why := p.takeLost(); why != nil {
		if err := p.budget.Next(ctx, why); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.lost = append(p.lost, why)
			return nil, fmt.Errorf("the JVM was %w: %w", err, why)
		}
	}
	err = p.budget.Start(ctx, func() (err error) {
		started, err = p.launch(ctx)
		return err
	})
	return started, err
}

// takeLost returns why the first host was lost that was not replaced yet; nil: there
// is none.
func (p *pool) takeLost() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lost) == 0 {
		return nil
	}
	why := p.lost[0]
	p.lost = p.lost[1:]
	return why
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
