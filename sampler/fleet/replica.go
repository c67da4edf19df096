package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/empo2/empo2/sampler/admission"
)

// state says whether requests are sent to a replica.
type state int

const (
	healthy state = iota
	suspect       // a request was lost: no requests until the next health check
	down          // no requests until the replica is readmitted
	asleep        // the server released its memory: no requests until Wake
)

// A replica is a server in the pool. The backend's mutex guards the fields from
// state on.
type replica struct {
	b         *Backend
	server    Server
	place     *admission.Place // paused while the replica is not healthy
	checkSoon chan struct{}    // makes the watcher check at once
	answered  atomic.Int64     // completions

	misses int // failed health checks in a row; only the watcher uses it

	state  state
	why    error           // reason why it is not healthy
	up     context.Context // ends with errWentDown; nil: no request was sent since it went down
	goDown context.CancelCauseFunc
	loaded map[string]bool // names of adapters that this backend loaded and the server listed

	compared bool // its tokenizer equals the run's, or it cannot tokenize
}

// set changes the state. The mutex is held.
func (r *replica) set(s state, why error) {
	b := r.b
	if s == down && r.state != down {
		b.cfg.Log.Warn().Str("server", r.server.URL()).Err(why).Msg("replica is down")
	}
	r.state, r.why = s, why
	anyHealthy := b.anyHealthy()
	anyAsleep := slices.ContainsFunc(b.replicas, func(x *replica) bool { return x.state == asleep })
	switch {
	case anyHealthy || anyAsleep:
		b.noneHealthySince = time.Time{}
	case b.noneHealthySince.IsZero():
		b.noneHealthySince = time.Now()
	}
	switch {
	case s == healthy:
		r.place.Resume()
	case s == down && anyHealthy: // the others take its requests
		r.place.Pause()
		r.endUptime()
	default:
		r.place.Pause()
	}
	b.announce()
}

// anyHealthy reports whether a replica is healthy. The mutex is held.
func (b *Backend) anyHealthy() bool {
	return slices.ContainsFunc(b.replicas, func(r *replica) bool { return r.state == healthy })
}

// uptime returns a context that ends when the replica goes down while another one is
// healthy.
func (r *replica) uptime() context.Context {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.up == nil {
		r.up, r.goDown = context.WithCancelCause(context.Background())
	}
	up := r.up
	if r.state == down && r.b.anyHealthy() { // it went down since it was chosen
		r.endUptime()
	}
	return up
}

// endUptime makes the requests in flight lost. The mutex is held.
func (r *replica) endUptime() {
	if r.up != nil {
		r.goDown(errWentDown)
		r.up, r.goDown = nil, nil
	}
}

// setIf changes the state from one to another. It does nothing in other states.
func (r *replica) setIf(from, to state, why error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.state == from {
		r.set(to, why)
	}
}

// markSuspect stops requests to a replica until the next health check.
func (r *replica) markSuspect(why error) {
	r.setIf(healthy, suspect, why)
	r.requestCheck()
}

// markDown declares a replica down. It gets no requests until it is readmitted.
func (r *replica) markDown(why error) {
	r.b.mu.Lock()
	if r.state != asleep {
		r.set(down, why)
	}
	r.b.mu.Unlock()
	r.requestCheck()
}

func (r *replica) requestCheck() {
	select {
	case r.checkSoon <- struct{}{}:
	default:
	}
}

// watch checks the replica, or readmits it, until the backend is closed.
func (r *replica) watch() {
	tick := time.NewTicker(r.b.cfg.HealthInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.b.alive.Done():
			return
		case <-tick.C:
		case <-r.checkSoon:
		}
		r.checkOrReadmit()
	}
}

func (r *replica) checkOrReadmit() {
	r.b.mu.Lock()
	now, why, sleeping := r.state, r.why, r.b.sleeping
	r.b.mu.Unlock()
	switch {
	case now == asleep, now == down && sleeping:
	case now == down:
		err := r.readmit(r.b.alive)
		switch {
		case r.b.alive.Err() != nil, errors.Is(err, errAsleep):
		case err != nil:
			r.remainDown(err)
		case r.b.cfg.OnReturn != nil:
			r.b.cfg.OnReturn(r.server.URL())
		}
	default:
		r.checkHealth(now, why)
	}
}

// remainDown keeps the reason why the replica was not readmitted, and logs it
// once.
func (r *replica) remainDown(why error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.state != down {
		return
	}
	if r.why == nil || r.why.Error() != why.Error() {
		r.b.cfg.Log.Warn().Str("server", r.server.URL()).Err(why).Msg("replica is still down")
	}
	r.why = why
	r.b.announce()
}

// healthTimeout is the shortest deadline of a health check. A busy server is
// slow to answer.
const healthTimeout = 5 * time.Second

// checkHealth checks a healthy or suspect replica. It declares a suspect replica
// down after one failed check, and a healthy one after two in a row.
func (r *replica) checkHealth(now state, why error) {
	limit := max(r.b.cfg.HealthInterval, healthTimeout)
	ctx, cancel := context.WithTimeoutCause(r.b.alive, limit, fmt.Errorf("no answer to a health check within %v", limit))
	defer cancel()
	lostAdapter, err := r.askHealth(ctx)
	switch {
	case r.b.alive.Err() != nil:
	case lostAdapter:
		r.markDown(err)
	case err == nil:
		r.misses = 0
		r.setIf(suspect, healthy, nil)
		if l, err := r.server.Load(ctx); err == nil {
			r.setLimit(l)
		}
	case now == suspect:
		r.misses = 0
		r.markDown(errors.Join(why, err))
	default:
		if r.misses++; r.misses == 2 {
			r.misses = 0
			r.markDown(err)
		}
	}
}

// askHealth returns nil if the server is healthy and lists every adapter that
// this backend loaded. lostAdapter is true if one is missing, for example after
// a restart of the server.
func (r *replica) askHealth(ctx context.Context) (lostAdapter bool, err error) {
	if err := r.server.Health(ctx); err != nil {
		return false, err
	}
	if !r.loadsAdapters() {
		return false, nil
	}
	want := r.loadedAdapters()
	if len(want) == 0 {
		return false, nil
	}
	listed, err := r.server.Adapters(ctx)
	if err != nil {
		return false, err
	}
	still := r.loadedAdapters() // some may have been unloaded since
	for name := range want {
		if _, ok := listed[name]; !ok && still[name] {
			return true, fmt.Errorf("%w %s that was loaded: the server was restarted, or another client unloaded it",
				ErrUnknownModel, name)
		}
	}
	return false, nil
}

// loadsAdapters says whether the servers can load adapters.
func (r *replica) loadsAdapters() bool { return r.b.probe.Capabilities.Adapters == "runtime" }

func (r *replica) loadedAdapters() map[string]bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return maps.Clone(r.loaded)
}
