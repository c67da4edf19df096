package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// A version is one policy and the process that serves it. Its supervisor replaces a
// process that ends, until the version is retired or failed.
type version struct {
	b       *Backend
	policy  sampler.Policy
	adapter string       // GGUF file; empty for the base
	verify  func() error // compares the file with its manifest
	log     zerolog.Logger

	first  *probe         // answer of the first process
	budget process.Budget // the supervisor's

	gate *admission.Gate // closed when the version is retired
	done chan struct{}   // closed when the last process has ended

	mu      sync.Mutex
	now     *replica      // nil while no process is ready
	failed  error         // why the version is no longer served
	changed chan struct{} // closed when now or failed changes
}

// startVersion starts and checks the first process of a version.
func (b *Backend) startVersion(ctx context.Context, p sampler.Policy, adapter string, a sampler.Adapter) (
	*version, error) {
	v := &version{
		b: b, policy: p, adapter: adapter, verify: a.Check, log: b.cfg.Log.With().Int("version", p.Version).Logger(),
		budget: b.cfg.Budget, gate: admission.NewGate(), done: make(chan struct{}), changed: make(chan struct{}),
	}
	v.budget.Report = v.onRestart
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	var r *replica
	err := v.budget.Start(ctx, func() (err error) {
		r, err = v.replica(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		r.stop()
		return nil, errClosed
	}
	v.now = r
	b.supervisors.Go(func() { v.supervise(r) })
	return v, nil
}

// supervise replaces the version's process whenever it ends.
func (v *version) supervise(r *replica) {
	defer close(v.done)
	for r != nil {
		why := v.watch(r)
		v.set(nil, nil)
		r.stop()
		if why == nil {
			return
		}
		if r = v.restart(why); r == nil {
			break
		}
		v.set(r, nil)
	}
	select { // failed, or about to be stopped
	case <-v.gate.Drained():
	case <-v.b.alive.Done():
	}
}

// onRestart counts and reports a restart, before it is made.
func (v *version) onRestart(why error) {
	v.log.Warn().Err(why).Msg("llama-server ended and is restarted")
	v.b.counters.add(Stats{Restarts: 1})
	if v.b.cfg.OnRestart != nil {
		v.b.cfg.OnRestart(v.policy.Name, why)
	}
}

// watch returns the reason when the process has ended, or nil when the version is
// no longer needed. It kills a process after two failed health checks in a row.
func (v *version) watch(r *replica) error {
	tick := time.NewTicker(v.b.cfg.HealthInterval)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-v.gate.Drained():
			return nil
		case <-v.b.alive.Done():
			return nil
		case <-r.exited():
			return r.err()
		case <-tick.C:
			if v.isHealthy(r) {
				misses = 0
			} else if misses++; misses == 2 {
				v.log.Warn().Msg("llama-server does not answer and is killed")
				r.kill()
			}
		}
	}
}

func (v *version) isHealthy(r *replica) bool {
	ctx, cancel := context.WithTimeoutCause(v.b.alive, v.b.cfg.HealthInterval, errors.New("no answer to a health check"))
	defer cancel()
	return r.client.health(ctx) == nil
}

// restart starts the next process. It returns nil after too many restarts. Requests wait
// for it, so it has a name: also while it pauses, and while the model is loaded.
func (v *version) restart(why error) *replica {
	defer watchdog.Begin(v.b.alive, "server", "restart llama-server of "+v.policy.Name, 0)()
	for {
		if err := v.budget.Next(v.b.alive, why); err != nil {
			if v.b.alive.Err() == nil {
				v.log.Error().Err(why).Msg("policy is no longer served: too many restarts")
				v.set(nil, fmt.Errorf("%w: %s is %w: %w", sampler.ErrPolicyGone, v.policy.Name, err, why))
			}
			return nil
		}
		r, err := v.replica(v.b.alive)
		if err == nil {
			return r
		}
		if v.b.alive.Err() != nil {
			return nil
		}
		why = err
	}
}

func (v *version) set(r *replica, failed error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now, v.failed = r, failed
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *version) usable() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.failed == nil && !v.gate.Closed()
}

// current waits for a running process.
func (v *version) current(ctx context.Context) (*replica, error) {
	for {
		v.mu.Lock()
		now, failed, changed := v.now, v.failed, v.changed
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

// do calls the current process. It retries after a lost connection, with the same
// or the next process. This is safe because requests change nothing in the server.
func (v *version) do(ctx context.Context, call func(context.Context, *replica) error) error {
	ctx, cancel := sampler.Within(ctx, v.b.alive)
	defer cancel()
	var last *replica
	tries, lost := 0, false
	retry := jsonhttp.Retry{
		First: firstPause, Last: 64 * firstPause,
		Again:  func(error) bool { return lost && tries < maxTries },
		Before: func(int, time.Duration, error) { v.b.counters.add(Stats{Retries: 1}) },
	}
	return retry.Do(ctx, func(ctx context.Context) error {
		lost = false
		r, err := v.current(ctx)
		if err != nil {
			return err
		}
		if r != last {
			last, tries = r, 0
		}
		tries++
		err = call(ctx, r)
		lost = errors.Is(err, errLost)
		return err
	})
}
