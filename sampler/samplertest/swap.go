package samplertest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
)

// testSwap replaces a version while requests are in flight, as a run with rollout.max_staleness does.
func testSwap(s *subject) {
	r := sampler.Request{Prompt: s.prompt(0), MaxTokens: longAnswer, Temperature: 1}
	s.publish(sampler.Adapter{})
	next, p := s.adapter(2), s.publish(s.adapter(1))
	swap(s.ctx, s, s.Backend, p, next, func(ctx context.Context, p sampler.Policy, n int) error {
		r := r
		r.Seed = uint64(n)
		c, err := s.Backend.Sample(ctx, p, r)
		if err == nil {
			s.check(p, r, c)
		}
		return err
	})
	s.checkGone(p)
}

// textSwap is testSwap of a backend of text.
func textSwap(s *textSubject) {
	first, next := s.adapter(1), s.adapter(2)
	s.publish(sampler.Adapter{})
	p := s.publish(first)
	swap(s.ctx, s, s.Backend, p, next, func(ctx context.Context, p sampler.Policy, n int) error {
		_, err := s.Backend.Sample(ctx, p, s.request(1, uint64(n)))
		return err
	})
	s.checkGone(p)
}

// swap publishes next and retires p while some clients sample from the newest version without a pause. No request may
// fail, except with ErrPolicyGone after the version was replaced, and both versions must have answered.
func swap(ctx context.Context, t interface{ Fatalf(string, ...any) }, b sampler.Backend, p sampler.Policy,
	next sampler.Adapter, sample func(context.Context, sampler.Policy, int) error) {
	var newest atomic.Pointer[sampler.Policy]
	newest.Store(&p)
	var answered [2]atomic.Int64 // by the first and by the next version
	stop, warm := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var clients errgroup.Group
	for client := range 8 {
		clients.Go(func() error {
			for n := client; ; n += 8 {
				select {
				case <-stop:
					return nil
				default:
				}
				now := *newest.Load()
				err := sample(ctx, now, n)
				switch {
				case errors.Is(err, sampler.ErrPolicyGone) && *newest.Load() != now:
					continue
				case err != nil:
					once.Do(func() { close(warm) })
					return err
				case now == p:
					answered[0].Add(1)
				case answered[1].Add(1) >= 16:
					return nil
				}
				once.Do(func() { close(warm) })
			}
		})
	}
	<-warm
	q, err := b.Publish(ctx, next)
	if err == nil {
		newest.Store(&q)
		err = b.Retire(ctx, p)
	}
	if err != nil {
		close(stop)
	}
	if failed := clients.Wait(); failed != nil || err != nil {
		t.Fatalf("swap under load: %v; a request: %v", err, failed)
	}
	if answered[0].Load() == 0 || answered[1].Load() == 0 {
		t.Fatalf("%d answers of the first version and %d of the next", answered[0].Load(), answered[1].Load())
	}
}
