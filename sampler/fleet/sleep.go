package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// CanSleep says whether the servers, as launched, can give the accelerator's
// memory back.
func (b *Backend) CanSleep() bool { return b.probe.Sleeps }

// Sleep waits for what is in flight and lets every server sleep. If one
// cannot, all are woken again.
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
	if err := b.quiet(ctx); err != nil {
		b.allDownAgain()
		return fmt.Errorf("sleep: requests in flight: %w", err)
	}
	if err := b.each(ctx, Dozer.Sleep); err != nil {
		err = errors.Join(err, b.each(context.WithoutCancel(ctx), Dozer.Wake))
		b.allDownAgain()
		return fmt.Errorf("sleep: %w", err)
	}
	b.cfg.Log.Info().Msg("servers sleep")
	return nil
}

// quiet lets no request in and waits for the last one.
func (b *Backend) quiet(ctx context.Context) error {
	b.mu.Lock()
	for _, r := range b.replicas {
		r.set(asleep, nil)
	}
	b.mu.Unlock()
	for {
		b.mu.Lock()
		inflight := 0
		for _, r := range b.replicas {
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

// each calls every server at once, within the time for loading.
func (b *Backend) each(ctx context.Context, call func(Dozer, context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("no answer within %v", b.cfg.LoadTimeout))
	defer cancel()
	failed := make([]error, len(b.replicas))
	var group sync.WaitGroup
	for i, r := range b.replicas {
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
	return errors.Join(failed...)
}

var errAwake = errors.New("it has just woken up")

// allDownAgain lets every replica prove itself before it is used. Adapters are
// loaded anew: a server may have lost them in its sleep and still list them.
func (b *Backend) allDownAgain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.replicas {
		clear(r.loaded)
		r.set(down, errAwake)
		r.kick()
	}
}

// Wake wakes every server and returns when all are back in the pool.
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
	if err := b.each(ctx, Dozer.Wake); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	b.allDownAgain()
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("not awake within %v", b.cfg.LoadTimeout))
	defer stop()
	for {
		b.mu.Lock()
		awake := true
		for _, r := range b.replicas {
			awake = awake && r.state == up
		}
		changed := b.changed
		b.mu.Unlock()
		if awake {
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
