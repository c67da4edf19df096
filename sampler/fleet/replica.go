package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/empo2/empo2/sampler/admission"
)

// state says whether a replica gets requests.
type state int

const (
	up      state = iota
	suspect       // a request was lost; looked at before the next one
	down          // out of the pool until it has proved itself
	asleep        // gave its memory back
)

// A replica is a server in the pool. Its fields below the watcher's are
// guarded by the backend's mutex.
type replica struct {
	b        *Backend
	server   Server
	place    *admission.Place // paused while the replica is not up
	kicked   chan struct{}    // asks the watcher for a look at once
	answered atomic.Int64     // completions

	misses int // of health in a row; the watcher's

	state  state
	why    error           // it is not up
	loaded map[string]bool // names of adapters that we loaded and saw listed
}

// set changes the state. The mutex is held.
func (r *replica) set(s state, why error) {
	b := r.b
	if s == down && r.state != down {
		b.cfg.Log.Warn().Str("server", r.server.URL()).Err(why).Msg("replica leaves the pool")
	}
	r.state, r.why = s, why
	anyUp, sleeping := false, false
	for _, x := range b.replicas {
		anyUp = anyUp || x.state == up
		sleeping = sleeping || x.state == asleep
	}
	switch {
	case anyUp || sleeping:
		b.noneSince = time.Time{}
	case b.noneSince.IsZero():
		b.noneSince = time.Now()
	}
	if s == up {
		r.place.Resume()
	} else {
		r.place.Pause()
	}
	b.announce()
}

// move changes the state if it is from.
func (r *replica) move(from, to state, why error) bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.state != from {
		return false
	}
	r.set(to, why)
	return true
}

// doubt takes a replica where a request was lost out of the pool until it was
// looked at.
func (r *replica) doubt(why error) {
	r.move(up, suspect, why)
	r.kick()
}

// fail takes a replica out of the pool until it has proved itself.
func (r *replica) fail(why error) {
	r.b.mu.Lock()
	if r.state != asleep {
		r.set(down, why)
	}
	r.b.mu.Unlock()
	r.kick()
}

func (r *replica) kick() {
	select {
	case r.kicked <- struct{}{}:
	default:
	}
}

// watch looks at the replica until the backend is closed.
func (r *replica) watch() {
	tick := time.NewTicker(r.b.cfg.HealthInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.b.alive.Done():
			return
		case <-tick.C:
		case <-r.kicked:
		}
		r.look()
	}
}

func (r *replica) look() {
	r.b.mu.Lock()
	now, why, resting := r.state, r.why, r.b.resting
	r.b.mu.Unlock()
	switch {
	case now == asleep, now == down && resting:
	case now == down:
		err := r.comeBack(r.b.alive)
		switch {
		case r.b.alive.Err() != nil, errors.Is(err, errAsleep):
		case err != nil:
			r.stillDown(err)
		case r.b.cfg.OnReturn != nil:
			r.b.cfg.OnReturn(r.server.URL())
		}
	default:
		r.examine(now, why)
	}
}

// stillDown remembers why it could not come back, and says so once.
func (r *replica) stillDown(why error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.state != down {
		return
	}
	if r.why == nil || r.why.Error() != why.Error() {
		r.b.cfg.Log.Warn().Str("server", r.server.URL()).Err(why).Msg("replica is not back yet")
	}
	r.why = why
	r.b.announce()
}

// healthTimeout is what a busy server gets at least to say that it is well.
const healthTimeout = 5 * time.Second

// examine looks at a replica that should be well. One that lost a request
// must answer at once, another may miss once.
func (r *replica) examine(now state, why error) {
	limit := max(r.b.cfg.HealthInterval, healthTimeout)
	ctx, cancel := context.WithTimeoutCause(r.b.alive, limit, fmt.Errorf("no answer to a health check within %v", limit))
	defer cancel()
	gone, err := r.well(ctx)
	switch {
	case r.b.alive.Err() != nil:
	case gone:
		r.fail(err)
	case err == nil:
		r.misses = 0
		r.move(suspect, up, nil)
		if l, err := r.server.Load(ctx); err == nil {
			r.setLimit(l)
		}
	case now == suspect:
		r.misses = 0
		r.fail(errors.Join(why, err))
	default:
		if r.misses++; r.misses == 2 {
			r.misses = 0
			r.fail(err)
		}
	}
}

// well is nil if the server is well and has what it should. gone says that it
// has lost an adapter, as after a start.
func (r *replica) well(ctx context.Context) (gone bool, err error) {
	if err := r.server.Health(ctx); err != nil {
		return false, err
	}
	if !r.loads() {
		return false, nil
	}
	want := r.has()
	if len(want) == 0 {
		return false, nil
	}
	listed, err := r.server.Adapters(ctx)
	if err != nil {
		return false, err
	}
	still := r.has()
	for name := range want {
		if _, ok := listed[name]; !ok && still[name] {
			return true, fmt.Errorf("%w %s that was loaded: it was started again, or somebody else unloaded it", ErrUnknownModel, name)
		}
	}
	return false, nil
}

// loads says whether the servers can load adapters at all.
func (r *replica) loads() bool { return r.b.probe.Capabilities.Adapters == "runtime" }

func (r *replica) has() map[string]bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return maps.Clone(r.loaded)
}
