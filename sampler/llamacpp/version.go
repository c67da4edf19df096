package llamacpp

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// A version is one policy and the processes that serve it, one per replica.
type version struct {
	b       *Backend
	policy  sampler.Policy
	adapter string       // GGUF file; empty for the base
	verify  func() error // compares the file with its manifest
	log     zerolog.Logger

	replicas []*replica
	queue    *admission.Queue // its places are the replicas

	gate *admission.Gate // closed when the version is retired
	done chan struct{}   // closed when the last process has ended

	mu      sync.Mutex
	first   *probe        // answer of the first process
	failed  error         // why the version is no longer served: no replica is
	gone    chan struct{} // closed when failed is set
	changed chan struct{} // closed when a replica's process changes
}

// startVersion starts and checks the first processes of a version. All replicas must
// start.
func (b *Backend) startVersion(ctx context.Context, p sampler.Policy, adapter string, a sampler.Adapter) (
	*version, error) {
	v := &version{
		b: b, policy: p, adapter: adapter, verify: a.Check, log: b.cfg.Log.With().Int("version", p.Version).Logger(),
		queue: b.newReplicaQueue(), gate: admission.NewGate(), done: make(chan struct{}), gone: make(chan struct{}),
		changed: make(chan struct{}),
	}
	for i := range b.cfg.Replicas {
		v.replicas = append(v.replicas, newReplica(v, i))
	}
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	started, err := v.startAll(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		stopAll(started)
		return nil, errClosed
	}
	var replicas sync.WaitGroup
	for i, r := range v.replicas {
		r.now = started[i]
		replicas.Go(func() { r.supervise(started[i]) })
	}
	b.supervisors.Go(func() { replicas.Wait(); close(v.done) })
	return v, nil
}

// startAll starts the processes of all replicas: the first one of a backend before the
// others, because it says what all must be like.
func (v *version) startAll(ctx context.Context) ([]*engine, error) {
	started := make([]*engine, len(v.replicas))
	start := func(i int) (err error) {
		r := v.replicas[i]
		return r.budget.Start(ctx, func() (err error) {
			started[i], err = r.start(ctx)
			return err
		})
	}
	var group errgroup.Group
	for i := range v.replicas {
		if i == 0 && v.b.caps.Server == "" {
			if err := start(0); err != nil {
				return nil, err
			}
			continue
		}
		group.Go(func() error { return start(i) })
	}
	if err := group.Wait(); err != nil {
		stopAll(started)
		return nil, err
	}
	return started, nil
}

func stopAll(started []*engine) {
	for _, c := range started {
		if c != nil {
			c.stop()
		}
	}
}

func (v *version) usable() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed == nil && !v.gate.Closed()
}

// fail ends the version if no replica is left. The mutex is held.
func (v *version) fail(why error) {
	for _, r := range v.replicas {
		if !r.givenUp {
			v.log.Warn().Err(why).Int("replica", r.index).Msg("a replica is left; another one is given up")
			return
		}
	}
	v.failed = why
	close(v.gone)
}

// current waits for a running process of any replica.
func (v *version) current(ctx context.Context) (*engine, error) {
	for {
		v.mu.Lock()
		var now *engine
		for _, r := range v.replicas {
			if now = r.now; now != nil && now.runs() {
				break
			}
		}
		failed, changed := v.failed, v.changed
		v.mu.Unlock()
		switch {
		case failed != nil:
			return nil, failed
		case now != nil && now.runs():
			return now, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

const (
	// maxTries is how often a request is sent to the same process, within 1.3
	// seconds: a busy machine may notice the end of a process that late.
	maxTries   = 8
	firstPause = 10 * time.Millisecond
)

// do calls a process of any replica. It retries after a lost connection, with the same
// or the next process. This is safe because requests change nothing in the server.
func (v *version) do(ctx context.Context, call func(context.Context, *engine) error) error {
	return v.retry(ctx, func(ctx context.Context) (*engine, error) {
		c, err := v.current(ctx)
		if err != nil {
			return nil, err
		}
		return c, call(ctx, c)
	})
}

// retry calls try until it does not lose the connection to the process that it
// returns.
func (v *version) retry(ctx context.Context, try func(context.Context) (*engine, error)) error {
	ctx, cancel := sampler.Within(ctx, v.b.alive)
	defer cancel()
	tries, lost := map[*engine]int{}, false
	retry := jsonhttp.Retry{
		First: firstPause, Last: 64 * firstPause,
		Again:  func(error) bool { return lost },
		Before: func(int, time.Duration, error) { v.b.counters.add(Stats{Retries: 1}) },
	}
	return retry.Do(ctx, func(ctx context.Context) error {
		c, err := try(ctx)
		switch {
		case errors.Is(err, errEnded): // the replica is paused until its next process is ready
			lost = true
		case c != nil && errors.Is(err, errLost):
			tries[c]++
			lost = tries[c] < maxTries
		default:
			lost = false
		}
		return err
	})
}
