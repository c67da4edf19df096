package llamacpp

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

// A replica is the process of a version on one device. Its supervisor replaces a
// process that ends, until the version is retired or the replica is given up. The
// version's mutex guards now and givenUp.
type replica struct {
	v      *version
	index  int
	device string // CUDA_VISIBLE_DEVICES; empty: it inherits it
	place  *admission.Place
	budget process.Budget // the supervisor's
	log    zerolog.Logger

	now     *engine // nil while no process is ready
	givenUp bool    // after too many restarts
}

// newReplicaQueue returns a queue whose places are the replicas of a version.
func (b *Backend) newReplicaQueue() *admission.Queue {
	limits := make([]int, b.cfg.Replicas)
	for i := range limits {
		limits[i] = b.cfg.Slots
	}
	return admission.New(admission.Config{Limits: limits, Sessions: maxSessions, Stickiness: b.cfg.Slots / 2})
}

// maxSessions is how many sessions a replica remembers.
const maxSessions = 8192

func newReplica(v *version, index int) *replica {
	cfg := v.b.cfg
	r := &replica{v: v, index: index, place: v.queue.Places()[index], budget: cfg.Budget, log: v.log}
	if len(cfg.Devices) > 0 {
		r.device = cfg.Devices[index]
	}
	if cfg.Replicas > 1 {
		r.log = v.log.With().Int("replica", index).Logger()
	}
	r.budget.Report = r.onRestart
	return r
}

// current returns the replica's process, nil while there is none.
func (r *replica) current() *engine {
	r.v.mu.Lock()
	defer r.v.mu.Unlock()
	return r.now
}

// name names the replica in errors and events.
func (r *replica) name() string {
	if len(r.v.replicas) == 1 {
		return r.v.policy.Name
	}
	return fmt.Sprintf("%s, replica %d", r.v.policy.Name, r.index)
}

// supervise replaces the replica's process whenever it ends.
func (r *replica) supervise(c *engine) {
	v := r.v
	for c != nil {
		why := r.watch(c)
		r.set(nil)
		c.stop()
		if why == nil {
			return
		}
		if c = r.restart(why); c == nil {
			break
		}
		r.set(c)
	}
	select { // given up, or about to be stopped
	case <-v.gate.Drained():
	case <-v.b.alive.Done():
	}
}

// onRestart counts and reports a restart, before it is made.
func (r *replica) onRestart(why error) {
	r.log.Warn().Err(why).Msg("llama-server ended and is restarted")
	r.v.b.counters.add(Stats{Restarts: 1})
	if r.v.b.cfg.OnRestart != nil {
		r.v.b.cfg.OnRestart(r.name(), why)
	}
}

// watch returns the reason when the process has ended, or nil when the version is
// no longer needed. It kills a process after two failed health checks in a row.
func (r *replica) watch(c *engine) error {
	v := r.v
	tick := time.NewTicker(v.b.cfg.HealthInterval)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-v.gate.Drained():
			return nil
		case <-v.b.alive.Done():
			return nil
		case <-c.exited():
			return c.err()
		case <-tick.C:
			if r.isHealthy(c) {
				misses = 0
			} else if misses++; misses == 2 {
				r.log.Warn().Msg("llama-server does not answer and is killed")
				c.kill()
			}
		}
	}
}

func (r *replica) isHealthy(c *engine) bool {
	b := r.v.b
	ctx, cancel := context.WithTimeoutCause(b.alive, b.cfg.HealthInterval, errors.New("no answer to a health check"))
	defer cancel()
	return c.client.health(ctx) == nil
}

// restart starts the next process. It returns nil after too many restarts. Requests may
// wait for it, so it has a name: also while it pauses, and while the model is loaded.
func (r *replica) restart(why error) *engine {
	v := r.v
	defer watchdog.Begin(v.b.alive, "server", "restart llama-server of "+r.name(), 0)()
	for {
		if err := r.budget.Next(v.b.alive, why); err != nil {
			if v.b.alive.Err() == nil {
				r.log.Error().Err(why).Msg("llama-server is no longer restarted: too many restarts")
				r.giveUp(fmt.Errorf("%w: %s is %w: %w", sampler.ErrPolicyGone, v.policy.Name, err, why))
			}
			return nil
		}
		c, err := r.start(v.b.alive)
		if err == nil {
			return c
		}
		if v.b.alive.Err() != nil {
			return nil
		}
		why = err
	}
}

// set sets the replica's process, nil while there is none.
func (r *replica) set(c *engine) {
	v := r.v
	v.mu.Lock()
	defer v.mu.Unlock()
	r.now = c
	if c == nil {
		r.place.Pause()
	} else {
		r.place.Resume()
	}
	v.announce()
}

// giveUp leaves the version to the other replicas, if there are any.
func (r *replica) giveUp(why error) {
	v := r.v
	v.mu.Lock()
	defer v.mu.Unlock()
	r.givenUp = true
	v.fail(why)
	v.announce()
}

// announce tells waiting goroutines that a process has changed. The mutex is held.
func (v *version) announce() {
	close(v.changed)
	v.changed = make(chan struct{})
}
