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
	"github.com/empo2/empo2/sampler/admission"
)

// Publish loads the adapter's PEFT directory on every replica under the
// version's name. It checks that each replica lists the adapter. It compares the
// log-probs of the canary with the trainer's, or with the other replicas' if the
// adapter has no Score. If one replica fails, the version is unloaded
// everywhere. Version 0 is always the base model. A version that was published
// without a Score is verified when it is published again with one.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	p := b.Policy(a.Version)
	if err := b.publish(ctx, p, a); err != nil {
		return sampler.Policy{}, fmt.Errorf("publish %s: %w", p.Name, err)
	}
	return p, nil
}

func (b *Backend) publish(ctx context.Context, p sampler.Policy, a sampler.Adapter) error {
	ctx, cancel := sampler.Within(ctx, b.alive)
	defer cancel()
	turn, err := b.publishing.Acquire(ctx, admission.Request{})
	if err != nil {
		return err
	}
	defer turn.Release()
	dir, err := b.adapterDir(a)
	if err != nil {
		return err
	}
	served, err := b.published(p, dir)
	if err != nil || served != nil && (served.verified || a.Score == nil) {
		return err
	}
	started := time.Now()
	ctx, stop := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout,
		fmt.Errorf("not served everywhere within %v", b.cfg.LoadTimeout))
	defer stop()
	if served != nil {
		return b.serveVerified(ctx, served, a)
	}
	if err := b.awaitCapacity(ctx, p); err != nil {
		return err
	}
	v := newVersion(p, dir, a)
	b.mu.Lock()
	b.versions[p.Version] = v
	b.dirs[p.Version] = dir
	b.mu.Unlock()
	if err := b.serveVerified(ctx, v, a); err != nil {
		b.undo(ctx, v)
		return err
	}
	took := time.Since(started).Round(time.Millisecond)
	b.cfg.Log.Info().Int("version", p.Version).Stringer("took", took).Msg("policy published")
	return nil
}

// published returns the version if it is already served, else nil. The directory
// of a version must not change.
func (b *Backend) published(p sampler.Policy, dir string) (*version, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errClosed
	}
	if was, ok := b.dirs[p.Version]; ok && was != dir {
		return nil, fmt.Errorf("the name already belongs to %s, not to %s\n"+
			"  hint: every version needs a directory of its own, which must not change", was, dir)
	}
	if v := b.versions[p.Version]; v != nil && v.ready && !v.gate.Closed() {
		return v, nil
	}
	return nil, nil
}

// serveVerified serves v everywhere and compares it with the trainer. The Score
// is dropped afterwards, because the trainer then changes its weights.
func (b *Backend) serveVerified(ctx context.Context, v *version, trainer sampler.Adapter) error {
	setTrainer := func(a sampler.Adapter) {
		b.mu.Lock()
		defer b.mu.Unlock()
		v.trainer = a
	}
	setTrainer(trainer)
	defer setTrainer(sampler.Adapter{})
	return b.serveEverywhere(ctx, v)
}

// awaitCapacity waits until the servers can hold one more adapter. If the same
// version was published before, it also waits until that is unloaded.
func (b *Backend) awaitCapacity(ctx context.Context, p sampler.Policy) error {
	limit := b.probe.Capabilities.MaxResident
	for {
		b.mu.Lock()
		adapters, retiring := 0, 0
		for _, v := range b.versions {
			if v.dir != "" {
				adapters++
			}
			if v.gate.Closed() {
				retiring++
			}
		}
		unloading := b.versions[p.Version] != nil
		changed := b.changed
		b.mu.Unlock()
		full := p.Version > 0 && limit > 0 && adapters >= limit
		switch {
		case !full && !unloading:
			return nil
		case full && retiring == 0:
			return fmt.Errorf("%d adapters are served and none is retired; the servers hold %d\n  hint: %s",
				adapters, limit, b.probe.Capabilities.Hints["max_resident"])
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("requests of retired versions are in flight: %w", context.Cause(ctx))
		}
	}
}

// serveEverywhere serves v on every replica that is healthy or suspect, also
// those that are readmitted in the meantime, and makes it ready.
func (b *Backend) serveEverywhere(ctx context.Context, v *version) error {
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
			group.Go(func() { failed[i] = r.serveWithRetries(ctx, v) })
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

// missing returns the healthy and suspect replicas that do not serve v. If there
// is at least one such replica and all serve v, v becomes ready.
func (b *Backend) missing(v *version, served map[*replica]bool) (
	missing []*replica, ready bool, changed <-chan struct{},
) {
	b.mu.Lock()
	defer b.mu.Unlock()
	serving := 0
	for _, r := range b.replicas {
		switch {
		case r.state == down || r.state == asleep:
			delete(served, r) // readmit loads all versions again
		case !served[r]:
			missing = append(missing, r)
		default:
			serving++
		}
	}
	if ready = len(missing) == 0 && serving > 0; ready {
		v.ready = true
		b.announce()
	}
	return missing, ready, b.changed
}

const firstPause = 20 * time.Millisecond

// maxFailures is how often a load may fail with an error of the server.
const maxFailures = 6

// serveWithRetries serves v on a replica. It retries after a lost connection,
// and a few times after an error of the server. It returns nil if the replica is
// down or asleep.
func (r *replica) serveWithRetries(ctx context.Context, v *version) error {
	failures := 0
	retry := jsonhttp.Retry{
		First: firstPause, Last: time.Second,
		Again: func(err error) bool {
			return failures < maxFailures && (errors.Is(err, ErrLost) || failed(err))
		},
		Before: func(_ int, _ time.Duration, err error) {
			if errors.Is(err, ErrLost) {
				r.markSuspect(err)
			}
		},
	}
	err := retry.Do(ctx, func(ctx context.Context) error {
		err := r.serve(ctx, v)
		switch {
		case err == nil || r.unavailable():
			return nil
		case failed(err):
			failures++
		}
		return err
	})
	switch {
	case err == nil:
		return nil
	case failures == maxFailures:
		return fmt.Errorf("%s, after %d attempts: %w", r.server.URL(), failures, err)
	}
	return fmt.Errorf("%s: %w", r.server.URL(), err)
}

// failed says whether the server answered with an error of its own.
func failed(err error) bool { return jsonhttp.Status(err) >= http.StatusInternalServerError }

func (r *replica) unavailable() bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return r.state == down || r.state == asleep
}

// serve loads v and verifies the canary.
func (r *replica) serve(ctx context.Context, v *version) error {
	if v.dir != "" {
		if err := r.load(ctx, v); err != nil {
			return fmt.Errorf("load %s: %w", v.dir, err)
		}
	}
	return r.verify(ctx, v)
}

// load loads an adapter under its name. If the server lists a name that this
// backend did not load, the adapter belongs to an earlier run and is unloaded
// first. If the name is taken after that, an earlier attempt succeeded and its
// answer was lost.
func (r *replica) load(ctx context.Context, v *version) error {
	name := v.policy.Name
	listed, err := r.server.Adapters(ctx)
	if err != nil {
		return err
	}
	if _, ok := listed[name]; ok {
		if r.loadedAdapters()[name] {
			return nil
		}
		r.drop(ctx, name)
	}
	if err := v.verify(); err != nil {
		return err
	}
	loadErr := r.server.LoadAdapter(ctx, name, v.dir)
	if loadErr != nil && !errors.Is(loadErr, ErrLoaded) {
		return loadErr
	}
	if listed, err = r.server.Adapters(ctx); err != nil {
		return err
	}
	if loadErr != nil && listed[name] != v.dir {
		return loadErr
	}
	if dir, ok := listed[name]; !ok || dir != "" && dir != v.dir {
		return fmt.Errorf("the server loaded %s but lists the directory %q for it", name, dir)
	}
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	r.loaded[name] = true
	return nil
}
