package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/sampler"
)

// Publish loads the adapter's PEFT directory on every replica under the
// version's own name, checks that each lists it and answers as the trainer, or
// as the others if the adapter has no Score, and makes the version usable. If
// one replica cannot, none keeps it. Version 0 is the base model whatever the
// adapter says. A version that was published without a Score is proved when it
// is published again with one.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	p := b.Policy(a.Version)
	if err := b.publish(ctx, p, a); err != nil {
		return sampler.Policy{}, fmt.Errorf("publish %s: %w", p.Name, err)
	}
	return p, nil
}

func (b *Backend) publish(ctx context.Context, p sampler.Policy, a sampler.Adapter) error {
	ctx, cancel := b.within(ctx)
	defer cancel()
	done, err := b.exclusive(ctx)
	if err != nil {
		return err
	}
	defer done()
	dir, err := b.adapterDir(a)
	if err != nil {
		return err
	}
	served, err := b.published(p, dir)
	if err != nil || served != nil && (served.proved || a.Score == nil) {
		return err
	}
	started := time.Now()
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("not served everywhere within %v", b.cfg.LoadTimeout))
	defer stop()
	if served != nil {
		return b.speak(ctx, served, a)
	}
	if err := b.room(ctx, p); err != nil {
		return err
	}
	v := newVersion(p, dir)
	b.mu.Lock()
	b.versions[p.Version] = v
	b.dirs[p.Version] = dir
	b.mu.Unlock()
	if err := b.speak(ctx, v, a); err != nil {
		b.undo(ctx, v)
		return err
	}
	b.cfg.Log.Info().Int("version", p.Version).Dur("took", time.Since(started)).Msg("policy published")
	return nil
}

// published is the version if it is served already, else nil. A name stands
// for one directory for ever.
func (b *Backend) published(p sampler.Policy, dir string) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if was, ok := b.dirs[p.Version]; ok && was != dir {
		return nil, fmt.Errorf("the name stands for %s already, not for %s\n  hint: every version has a directory of its own, which nobody changes", was, dir)
	}
	if v := b.versions[p.Version]; v != nil && v.ready && !v.retired {
		return v, nil
	}
	return nil, nil
}

// speak serves v everywhere while its trainer speaks for it; afterwards the
// trainer goes on to the next version.
func (b *Backend) speak(ctx context.Context, v *version, trainer sampler.Adapter) error {
	spokenFor := func(a sampler.Adapter) {
		b.mu.Lock()
		defer b.mu.Unlock()
		v.trainer = a
	}
	spokenFor(trainer)
	defer spokenFor(sampler.Adapter{})
	return b.everywhere(ctx, v)
}

// room waits until fewer versions are resident than the servers take, and
// until an earlier life of the version is over.
func (b *Backend) room(ctx context.Context, p sampler.Policy) error {
	most := b.probe.Capabilities.MaxResident
	for {
		b.mu.Lock()
		adapters, retiring := 0, 0
		for _, v := range b.versions {
			if v.dir != "" {
				adapters++
			}
			if v.retired {
				retiring++
			}
		}
		again := b.versions[p.Version] != nil
		changed := b.changed
		b.mu.Unlock()
		full := p.Version > 0 && most > 0 && adapters >= most
		switch {
		case !full && !again:
			return nil
		case full && retiring == 0:
			return fmt.Errorf("%d adapters are served and none is retired, the servers take %d\n  hint: %s",
				adapters, most, b.probe.Capabilities.Hints["max_resident"])
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("requests of retired versions are in flight: %w", context.Cause(ctx))
		}
	}
}

// everywhere serves v on every replica that is in the pool, including those
// that enter it meanwhile, and makes it ready.
func (b *Backend) everywhere(ctx context.Context, v *version) error {
	served := map[*replica]bool{}
	for {
		missing, ready, changed := b.missing(v, served)
		switch {
		case ready:
			return nil
		case len(missing) == 0:
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				b.mu.Lock()
				defer b.mu.Unlock()
				return fmt.Errorf("%w: %w", context.Cause(ctx), b.allDown())
			}
		}
		var group sync.WaitGroup
		failed := make([]error, len(missing))
		for i, r := range missing {
			group.Go(func() { failed[i] = r.insist(ctx, v) })
		}
		group.Wait()
		if err := errors.Join(failed...); err != nil {
			return err
		}
		for _, r := range missing {
			served[r] = true
		}
	}
}

// missing are the replicas in the pool that do not serve v. If there are none,
// but one that does, v is ready; it may be used from then on.
func (b *Backend) missing(v *version, served map[*replica]bool) (missing []*replica, ready bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	able := 0
	for _, r := range b.replicas {
		switch {
		case r.state == down || r.state == asleep:
			delete(served, r) // it comes back by itself, with what is ready then
		case !served[r]:
			missing = append(missing, r)
		default:
			able++
		}
	}
	if ready = len(missing) == 0 && able > 0; ready {
		v.ready = true
		b.announce()
	}
	return missing, ready, b.changed
}

const firstPause = 20 * time.Millisecond

// mostRefused is how often a replica may answer a load with a failure of its
// own before that is believed.
const mostRefused = 6

// insist serves v on a replica, again when the connection was lost and a few
// times when the server says that it failed. A replica that leaves the pool
// meanwhile is let go.
func (r *replica) insist(ctx context.Context, v *version) error {
	refused := 0
	retry := jsonhttp.Retry{
		First: firstPause, Last: time.Second,
		Again: func(err error) bool {
			return refused < mostRefused && (errors.Is(err, ErrLost) || failed(err))
		},
		Before: func(_ int, _ time.Duration, err error) {
			if errors.Is(err, ErrLost) {
				r.doubt(err)
			}
		},
	}
	err := retry.Do(ctx, func(ctx context.Context) error {
		err := r.serve(ctx, v)
		switch {
		case err == nil || r.out():
			return nil
		case failed(err):
			refused++
		}
		return err
	})
	switch {
	case err == nil:
		return nil
	case refused == mostRefused:
		return fmt.Errorf("%s, after %d tries: %w", r.server.URL(), refused, err)
	}
	return fmt.Errorf("%s: %w", r.server.URL(), err)
}

// failed: the server says that it failed.
func failed(err error) bool { return jsonhttp.Status(err) >= http.StatusInternalServerError }

func (r *replica) out() bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.state == down || r.state == asleep
}

// serve loads v, sees it listed and lets it answer the check.
func (r *replica) serve(ctx context.Context, v *version) error {
	if v.dir != "" {
		if err := r.load(ctx, v); err != nil {
			return fmt.Errorf("load %s: %w", v.dir, err)
		}
	}
	return r.prove(ctx, v)
}

// load loads an adapter under its name. What a server has under that name and
// not from us is of an earlier run and goes; what it has got since then is of a
// load whose answer was lost.
func (r *replica) load(ctx context.Context, v *version) error {
	name := v.policy.Name
	listed, err := r.server.Adapters(ctx)
	if err != nil {
		return err
	}
	if _, ok := listed[name]; ok {
		if r.has()[name] {
			return nil
		}
		r.drop(ctx, name)
	}
	loaded := r.server.LoadAdapter(ctx, name, v.dir)
	if loaded != nil && !errors.Is(loaded, ErrLoaded) {
		return loaded
	}
	if listed, err = r.server.Adapters(ctx); err != nil {
		return err
	}
	if loaded != nil && listed[name] != v.dir {
		return loaded
	}
	if dir, ok := listed[name]; !ok || dir != "" && dir != v.dir {
		return fmt.Errorf("the server says that it loaded %s and lists %q for it", name, dir)
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.loaded[name] = true
	return nil
}
