package fleet

import (
	"context"
	"fmt"
	"sync"

	"github.com/empo2/empo2/sampler"
)

// undo unloads a version that could not be published, also if ctx has ended.
func (b *Backend) undo(ctx context.Context, v *version) {
	v.gate.Close()
	b.unload(context.WithoutCancel(ctx), v)
}

// unload unloads a version everywhere. Failures are only logged, because the
// adapter is not used again.
func (b *Backend) unload(ctx context.Context, v *version) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout,
		fmt.Errorf("not unloaded within %v", b.cfg.LoadTimeout))
	defer cancel()
	var group sync.WaitGroup
	for _, r := range b.replicas {
		if r.loadedAdapters()[v.policy.Name] {
			group.Go(func() { r.drop(ctx, v.policy.Name) })
		}
	}
	group.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.versions[v.policy.Version] == v {
		delete(b.versions, v.policy.Version)
	}
	close(v.done)
	b.announce()
}

// Retire refuses new requests for p, waits for those in flight and unloads the
// version. If ctx ends first, the version is unloaded later.
func (b *Backend) Retire(ctx context.Context, p sampler.Policy) error {
	b.mu.Lock()
	v := b.versions[p.Version]
	if v == nil || v.policy != p || !v.ready || b.closed {
		b.mu.Unlock()
		return nil
	}
	if v.gate.Close() {
		b.goroutines.Go(func() { b.unloadWhenDrained(v) })
	}
	b.mu.Unlock()
	select {
	case <-v.done:
		return nil
	case <-b.alive.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("retire %s: requests in flight: %w", p.Name, context.Cause(ctx))
	}
}

// unloadWhenDrained unloads a version after its last request.
func (b *Backend) unloadWhenDrained(v *version) {
	select {
	case <-v.gate.Drained():
		b.unload(b.alive, v)
	case <-b.alive.Done():
	}
}
