package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// errNotCompared makes a replica wait for the next readmission.
var errNotCompared = errors.New("its tokenizer is not compared yet")

// readmit makes a replica healthy if it has the same model and settings as
// before, serves every version and passes the canary of each.
func (r *replica) readmit(ctx context.Context) error {
	b := r.b
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout,
		fmt.Errorf("not readmitted within %v", b.cfg.LoadTimeout))
	defer cancel()
	if err := r.server.Health(ctx); err != nil {
		return err
	}
	p, err := r.probe(ctx)
	if err != nil {
		return err
	}
	if err := p.equal(b.probe); err != nil {
		return fmt.Errorf("it is now a different server: %w", err)
	}
	if err := r.compareOnce(ctx); err != nil {
		return err
	}
	if err := r.dropUnwanted(ctx); err != nil {
		return err
	}
	verified := map[*version]bool{}
	for {
		v, err := r.next(verified)
		if err != nil {
			return err
		}
		if v == nil {
			return r.dropUnwanted(ctx) // versions may have been retired since
		}
		if err := r.serve(ctx, v); err != nil {
			return err
		}
		verified[v] = true
	}
}

// probe asks the server what it can do. It wakes a server that sleeps, if
// Config.Sleep is set.
func (r *replica) probe(ctx context.Context) (Probe, error) {
	s, ok := r.server.(Sleeper)
	if !ok {
		return r.server.Probe(ctx)
	}
	asleep, err := s.Asleep(ctx)
	switch {
	case err != nil:
		return Probe{}, err
	case asleep && !r.b.cfg.Sleep:
		return Probe{}, fmt.Errorf("the server sleeps, probably since a run was killed\n"+
			"  hint: set %s.sleep, or restart the server", r.b.cfg.Section)
	case asleep:
		r.b.cfg.Log.Info().Str("server", r.server.URL()).Msg("waking the server")
		if err := s.Wake(ctx); err != nil {
			return Probe{}, fmt.Errorf("wake the server: %w", err)
		}
	}
	return r.server.Probe(ctx)
}

// next returns a version that the replica does not serve yet. If there is none,
// it makes the replica healthy and returns nil. It returns errAsleep if Sleep was
// called since, and errNotCompared if CompareTokenizers was.
func (r *replica) next(verified map[*version]bool) (*version, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sleeping {
		return nil, errAsleep
	}
	for _, v := range b.versions {
		if !verified[v] && (v.ready && !v.gate.Closed() || v.gate.InFlight() > 0) {
			return v, nil
		}
	}
	switch {
	case r.state != down:
		return nil, nil
	case b.comparison != nil && !r.compared:
		return nil, errNotCompared
	}
	r.set(healthy, nil)
	b.counters.add(Stats{Returns: 1})
	b.cfg.Log.Info().Str("server", r.server.URL()).Msg("replica is healthy again")
	return nil, nil
}

// dropUnwanted unloads adapters of this run that belong to no version. It also
// forgets adapters that the server no longer lists.
func (r *replica) dropUnwanted(ctx context.Context) error {
	if !r.loadsAdapters() {
		return nil
	}
	listed, err := r.server.Adapters(ctx)
	if err != nil {
		return err
	}
	b := r.b
	b.mu.Lock()
	wanted := map[string]bool{}
	for _, v := range b.versions {
		wanted[v.policy.Name] = true
	}
	for name := range r.loaded {
		if _, ok := listed[name]; !ok {
			delete(r.loaded, name)
		}
	}
	b.mu.Unlock()
	for name := range listed {
		if strings.HasPrefix(name, b.cfg.Alias+"-v") && !wanted[name] {
			r.drop(ctx, name)
		}
	}
	return nil
}

// drop unloads an adapter. A failure is only logged, because the adapter is not
// used again.
func (r *replica) drop(ctx context.Context, name string) {
	r.b.mu.Lock()
	delete(r.loaded, name)
	r.b.mu.Unlock()
	if err := r.server.UnloadAdapter(ctx, name); err != nil {
		r.b.cfg.Log.Warn().Str("server", r.server.URL()).Str("adapter", name).Err(err).Msg("adapter was not unloaded")
	}
}
