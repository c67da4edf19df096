package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// CanSleep says whether the servers, as launched, can release the accelerator's
// memory.
func (b *Backend) CanSleep() bool { return b.probe.Sleeps }

// Sleep waits for the requests in flight and puts every healthy or suspect
// server to sleep. If one refuses, Sleep wakes all servers again. A server that
// cannot be reached is down and uses no memory; it may be the only one. Replicas
// that are down stay down until Wake.
func (b *Backend) Sleep(ctx context.Context) error {
	if !b.probe.Sleeps {
		return fmt.Errorf("sleep: %w by the servers in their configuration\n  hint: %s",
			errors.ErrUnsupported, b.probe.Capabilities.Hints["sleep"])
	}
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	turn, err := b.publishing.Acquire(ctx, admission.Request{})
	if err != nil {
		return fmt.Errorf("sleep: %w", err)
	}
	defer turn.Release()
	pool := b.pauseAll()
	if err := drain(ctx, pool); err != nil {
		b.resume()
		return fmt.Errorf("sleep: requests in flight: %w", err)
	}
	if err := b.markFailedDown(pool, b.callAll(ctx, pool, Sleeper.Sleep), unreachable); err != nil {
		err = errors.Join(append(b.callAll(context.WithoutCancel(ctx), pool, Sleeper.Wake), err)...)
		b.resume()
		return fmt.Errorf("sleep: %w", err)
	}
	b.cfg.Log.Info().Int("servers", len(pool)).Msg("servers are asleep")
	return nil
}

// pauseAll stops requests and marks the healthy and suspect replicas as asleep.
// It returns these replicas.
func (b *Backend) pauseAll() (pool []*replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.replicas {
		if r.state != down && r.state != asleep {
			pool = append(pool, r)
		}
	}
	b.sleeping = true
	for _, r := range pool {
		r.set(asleep, nil)
	}
	return pool
}

// drain waits for the requests in flight at replicas that are paused.
func drain(ctx context.Context, pool []*replica) error {
	for _, r := range pool {
		if err := r.place.Drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// callAll calls several servers at the same time, within LoadTimeout. The errors
// are in the order of the replicas.
func (b *Backend) callAll(ctx context.Context, pool []*replica, call func(Sleeper, context.Context) error) []error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("no answer within %v", b.cfg.LoadTimeout))
	defer cancel()
	failed := make([]error, len(pool))
	var group sync.WaitGroup
	for i, r := range pool {
		group.Go(func() {
			s, ok := r.server.(Sleeper)
			if !ok {
				failed[i] = fmt.Errorf("%s: %w", r.server.URL(), errors.ErrUnsupported)
			} else if err := call(s, ctx); err != nil {
				failed[i] = fmt.Errorf("%s: %w", r.server.URL(), err)
			}
		})
	}
	group.Wait()
	return failed
}

// errWoken is the reason of a replica that woke up and is not readmitted yet.
var errWoken = errors.New("the server has just woken up")

// resume lets every replica be readmitted. Adapters are loaded again, because a
// server that slept may list adapters that it has lost.
func (b *Backend) resume() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sleeping = false
	for _, r := range b.replicas {
		if r.state == asleep {
			clear(r.loaded)
			r.set(down, errWoken)
		}
		r.requestCheck()
	}
}

// Wake wakes the servers that sleep. It returns when readmission of each was
// tried and at least one replica is healthy. The others are readmitted later. If
// no server wakes up, Wake waits until one is restarted, as long as requests do.
func (b *Backend) Wake(ctx context.Context) error {
	if !b.probe.Sleeps {
		return fmt.Errorf("wake: %w by the servers in their configuration", errors.ErrUnsupported)
	}
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	turn, err := b.publishing.Acquire(ctx, admission.Request{})
	if err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	defer turn.Release()
	if err := b.wakeServers(ctx); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	b.resume()
	if err := b.awaitReadmission(ctx); err != nil {
		return fmt.Errorf("wake: %w", err)
	}
	return nil
}

// awaitReadmission waits until a replica is healthy and readmission of each was
// tried.
func (b *Backend) awaitReadmission(ctx context.Context) error {
	limit := max(b.cfg.LoadTimeout, b.cfg.Patience)
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not awake within %v", limit))
	defer stop()
	for {
		b.mu.Lock()
		anyHealthy, anyJustWoken := false, false
		for _, r := range b.replicas {
			anyHealthy = anyHealthy || r.state == healthy
			anyJustWoken = anyJustWoken || r.state == down && errors.Is(r.why, errWoken)
		}
		changed := b.changed
		b.mu.Unlock()
		if anyHealthy && !anyJustWoken {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.mu.Lock()
			defer b.mu.Unlock()
			return fmt.Errorf("%w: %w", context.Cause(ctx), b.allDown())
		}
	}
}

// wakeServers wakes the servers that sleep. A server that does not wake up is
// down.
func (b *Backend) wakeServers(ctx context.Context) error {
	b.mu.Lock()
	var pool []*replica
	for _, r := range b.replicas {
		if r.state == asleep {
			pool = append(pool, r)
		}
	}
	b.mu.Unlock()
	return b.markFailedDown(pool, b.callAll(ctx, pool, Sleeper.Wake), func(error) bool { return true })
}

// unreachable says whether the server did not answer at all.
func unreachable(err error) bool { return errors.Is(err, ErrLost) && jsonhttp.Status(err) == 0 }

// markFailedDown marks replicas as down if their error is tolerated. It returns
// all errors if one is not.
func (b *Backend) markFailedDown(pool []*replica, failed []error, tolerated func(error) bool) error {
	for _, err := range failed {
		if err != nil && !tolerated(err) {
			return errors.Join(failed...)
		}
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
