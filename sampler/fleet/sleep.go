package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// CanSleep says whether the servers, as launched, can give the accelerator's
// memory back.
func (b *Backend) CanSleep() bool { return b.probe.Sleeps }

// Sleep waits for what is in flight and lets every server sleep that is in the
// pool. If one cannot, all are woken again; one that is not there any more has
// left its memory. Who is down stays so until Wake, also if it could come back
// before.
func (b *Backend) Sleep(ctx context.Context) error {
	if !b.probe.Sleeps {
		return fmt.Errorf("sleep: %w by the servers as launched\n  hint: %s", errors.ErrUnsupported, b.probe.Capabilities.Hints["sleep"])
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	done, err := b.exclusive(ctx)
	if err != nil {
		return fmt.Errorf("sleep: %w", err)
	}
	defer done()
	pool, err := b.lieDown()
	if err != nil {
		return fmt.Errorf("sleep: %w", err)
	}
	if err := b.quiet(ctx, pool); err != nil {
		b.getUp()
		return fmt.Errorf("sleep: requests in flight: %w", err)
	}
	if err := b.without(pool, b.each(ctx, pool, Dozer.Sleep), unreachable); err != nil {
		err = errors.Join(append(b.each(context.WithoutCancel(ctx), pool, Dozer.Wake), err)...)
		b.getUp()
		return fmt.Errorf("sleep: %w", err)
	}
	b.cfg.Log.Info().Int("servers", len(pool)).Msg("servers sleep")
	return nil
}

// lieDown lets no request in any more; the pool is who was neither down nor
// asleep.
func (b *Backend) lieDown() (pool []*replica, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.replicas {
		if r.state != down && r.state != asleep {
			pool = append(pool, r)
		}
	}
	if len(pool) == 0 && !b.resting {
		return nil, b.allDown()
	}
	b.resting = true
	for _, r := range pool {
		r.set(asleep, nil)
	}
	return pool, nil
}

// quiet waits for the pool's last request; one that hangs where a server is
// down holds nobody up.
func (b *Backend) quiet(ctx context.Context, pool []*replica) error {
	for {
		b.mu.Lock()
		inflight := 0
		for _, r := range pool {
			inflight += r.inflight
		}
		changed := b.changed
		b.mu.Unlock()
		if inflight == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// each calls the servers of a pool at once, within the time for loading. The
// errors are in the pool's order.
func (b *Backend) each(ctx context.Context, pool []*replica, call func(Dozer, context.Context) error) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("no answer within %v", b.cfg.LoadTimeout))
	defer cancel()
	failed := make([]error, len(pool))
	var group sync.WaitGroup
	for i, r := range pool {
		group.Go(func() {
			d, ok := r.server.(Dozer)
			if !ok {
				failed[i] = fmt.Errorf("%s: %w", r.server.URL(), errors.ErrUnsupported)
			} else if err := call(d, ctx); err != nil {
				failed[i] = fmt.Errorf("%s: %w", r.server.URL(), err)
			}
		})
	}
	group.Wait()
	return failed
}

var errAwake = errors.New("it has just woken up")

// getUp lets every replica prove itself before it is used. Adapters are loaded
// anew: a server may have lost them in its sleep and still list them.
func (b *Backend) getUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resting = false
	for _, r := range b.replicas {
		if r.state == asleep {
			clear(r.loaded)
			r.set(down, errAwake)
		}
		r.kick()
	}
}

// Wake wakes the servers that sleep and returns when each has proved itself or
// failed to, and one is in the pool at least. The others come back by
// themselves.
func (b *Backend) Wake(ctx context.Context) error {
	if !b.probe.Sleeps {
		return fmt.Errorf("wake: %w by the servers as launched", errors.ErrUnsupported)
	}
	ctx, cancel := b.within(ctx)
	defer cancel()
	done, err := b.exclusive(ctx)
	if err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	defer done()
	if err := b.rouse(ctx); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	b.getUp()
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("not awake within %v", b.cfg.LoadTimeout))
	defer stop()
	for {
		b.mu.Lock()
		anyUp, untried := false, false
		for _, r := range b.replicas {
			anyUp = anyUp || r.state == up
			untried = untried || r.state == down && errors.Is(r.why, errAwake)
		}
		changed := b.changed
		b.mu.Unlock()
		if anyUp && !untried {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.mu.Lock()
			defer b.mu.Unlock()
			return fmt.Errorf("wake: %w: %w", context.Cause(ctx), b.allDown())
		}
	}
}

// rouse wakes who sleeps. Who cannot be woken is down.
func (b *Backend) rouse(ctx context.Context) error {
	b.mu.Lock()
	var pool []*replica
	for _, r := range b.replicas {
		if r.state == asleep {
			pool = append(pool, r)
		}
	}
	b.mu.Unlock()
	return b.without(pool, b.each(ctx, pool, Dozer.Wake), func(error) bool { return true })
}

// unreachable: there was no answer at all.
func unreachable(err error) bool { return errors.Is(err, ErrLost) && jsonhttp.Status(err) == 0 }

// without goes on without the replicas of a pool that failed as some may. The
// other failures are an error, and so is a pool of which nobody is left.
func (b *Backend) without(pool []*replica, failed []error, may func(error) bool) error {
	left := len(pool) == 0
	for _, err := range failed {
		if err != nil && !may(err) {
			return errors.Join(failed...)
		}
		left = left || err == nil
	}
	if !left {
		return errors.Join(failed...)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, r := range pool {
		if failed[i] != nil {
			clear(r.loaded)
			r.set(down, failed[i])
		}
	}
	return nil
}
