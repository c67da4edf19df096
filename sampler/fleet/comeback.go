package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// comeBack proves a replica: it is well and like the others, has every version
// and answers as each did first. Only then it is up.
func (r *replica) comeBack(ctx context.Context) error {
	b := r.b
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("not back within %v", b.cfg.LoadTimeout))
	defer cancel()
	if err := r.server.Health(ctx); err != nil {
		return err
	}
	p, err := r.probe(ctx)
	if err != nil {
		return err
	}
	if err := p.like(b.probe); err != nil {
		return fmt.Errorf("it is another server now: %w", err)
	}
	if err := r.tidy(ctx); err != nil {
		return err
	}
	proved := map[*version]bool{}
	for {
		v, err := r.next(proved)
		if err != nil {
			return err
		}
		if v == nil {
			return r.tidy(ctx) // it is up; what was retired meanwhile goes
		}
		if err := r.serve(ctx, v); err != nil {
			return err
		}
		proved[v] = true
	}
}

// probe asks the server what it can do. One that sleeps is woken before, where
// that is our business.
func (r *replica) probe(ctx context.Context) (Probe, error) {
	d, ok := r.server.(Dozer)
	if !ok {
		return r.server.Probe(ctx)
	}
	asleep, err := d.Asleep(ctx)
	switch {
	case err != nil:
		return Probe{}, err
	case asleep && !r.b.cfg.Sleep:
		return Probe{}, errors.New("it sleeps\n  hint: a run that was killed has left it so: set sampler.vllm.sleep or sampler.sglang.sleep, or start the server again")
	case asleep:
		r.b.cfg.Log.Info().Str("server", r.server.URL()).Msg("the server sleeps and is woken")
		if err := d.Wake(ctx); err != nil {
			return Probe{}, fmt.Errorf("it sleeps and cannot be woken: %w", err)
		}
	}
	return r.server.Probe(ctx)
}

// next is a version that is not proved yet; with nil the replica is up. It is
// errAsleep if the others were let sleep meanwhile.
func (r *replica) next(proved map[*version]bool) (*version, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resting {
		return nil, errAsleep
	}
	for _, v := range b.versions {
		if !proved[v] && (v.ready && !v.gate.Closed() || v.gate.InFlight() > 0) {
			return v, nil
		}
	}
	if r.state != down {
		return nil, nil
	}
	r.set(up, nil)
	b.counters.add(Stats{Returns: 1})
	b.cfg.Log.Info().Str("server", r.server.URL()).Msg("replica is back in the pool")
	return nil, nil
}

// tidy unloads what goes by our names and is nobody's any more, and forgets
// what the server has forgotten.
func (r *replica) tidy(ctx context.Context) error {
	if !r.loads() {
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

// drop unloads an adapter; if that does not work it stays, which the log says.
func (r *replica) drop(ctx context.Context, name string) {
	r.b.mu.Lock()
	delete(r.loaded, name)
	r.b.mu.Unlock()
	if err := r.server.UnloadAdapter(ctx, name); err != nil {
		r.b.cfg.Log.Warn().Str("server", r.server.URL()).Str("adapter", name).Err(err).Msg("adapter was not unloaded")
	}
}
