package fleet

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/sampler"
)

// sleeper is a fake that can sleep and die.
type sleeper struct {
	fake
	dead, asleep atomic.Bool
	wakes        atomic.Int64
	sampled      atomic.Int64 // requests of the tests
}

func newSleeper(name string) *sleeper {
	s := &sleeper{fake: fake{name: name}}
	s.health = func(context.Context) error { return s.alive() }
	s.complete = func(_ context.Context, model string, r sampler.Request) (Answer, error) {
		if r.MaxTokens == request.MaxTokens {
			s.sampled.Add(1)
		}
		return firstID(model, r), s.alive()
	}
	return s
}

func (s *sleeper) alive() error {
	if s.dead.Load() {
		return ErrLost
	}
	return nil
}

func (s *sleeper) Probe(ctx context.Context) (Probe, error) {
	p, _ := s.fake.Probe(ctx)
	p.Sleeps = true
	return p, s.alive()
}

func (s *sleeper) Asleep(context.Context) (bool, error) { return s.asleep.Load(), s.alive() }

func (s *sleeper) Sleep(context.Context) error {
	if s.dead.Load() {
		return ErrLost
	}
	s.asleep.Store(true)
	return nil
}

func (s *sleeper) Wake(context.Context) error {
	if s.dead.Load() {
		return ErrLost
	}
	s.asleep.Store(false)
	s.wakes.Add(1)
	return nil
}

// withSleepers runs f with two replicas that can sleep, on a fake clock.
func withSleepers(t *testing.T, f func(t *testing.T, b *Backend, p sampler.Policy, one, other *sleeper)) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newSleeper("one"), newSleeper("other")
		b, p := open(t, Config{Servers: []Server{one, other}, HealthInterval: time.Second})
		f(t, b, p, one, other)
		b.Close()
	})
}

// Sleep ignores a server that is down. If it recovers, it gets no requests until
// Wake.
func TestSleepIgnoresServersThatAreDown(t *testing.T) {
	withSleepers(t, func(t *testing.T, b *Backend, p sampler.Policy, dead, alive *sleeper) {
		dead.dead.Store(true)
		time.Sleep(time.Minute) // until it is down
		for range 2 {           // the second Sleep changes nothing
			if err := b.Sleep(t.Context()); err != nil || !alive.asleep.Load() {
				t.Fatal(err)
			}
		}
		dead.dead.Store(false)
		answered := make(chan error)
		go func() { _, err := b.Sample(t.Context(), p, request); answered <- err }()
		time.Sleep(time.Hour)
		if dead.sampled.Load()+alive.sampled.Load() != 0 || dead.asleep.Load() {
			t.Errorf("%d and %d requests during the sleep", dead.sampled.Load(), alive.sampled.Load())
		}
		if err := b.Wake(t.Context()); err != nil || alive.wakes.Load() != 1 || dead.wakes.Load() != 0 {
			t.Error(err, alive.wakes.Load(), dead.wakes.Load())
		}
		if err := <-answered; err != nil {
			t.Errorf("a request during the sleep: %v", err)
		}
		time.Sleep(time.Minute)
		for _, r := range b.replicas {
			if r.unavailable() {
				t.Errorf("%s is not healthy after a minute", r.server.URL())
			}
		}
	})
}

// Sleep does not wait for requests at a server that is down.
func TestSleepIgnoresRequestsAtServersThatAreDown(t *testing.T) {
	withSleepers(t, func(t *testing.T, b *Backend, p sampler.Policy, hung, alive *sleeper) {
		hung.complete = func(ctx context.Context, _ string, _ sampler.Request) (Answer, error) {
			<-ctx.Done()
			return Answer{}, context.Cause(ctx)
		}
		answered := make(chan error)
		go func() { _, err := b.Sample(t.Context(), p, request); answered <- err }()
		synctest.Wait()
		hung.dead.Store(true)
		time.Sleep(time.Minute)
		began := time.Now()
		if err := errors.Join(b.Sleep(t.Context()), b.Wake(t.Context())); err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

func TestSleepAndWakeIgnoreAServerThatDies(t *testing.T) {
	for name, when := range map[string]func(ctx context.Context, b *Backend, kill func()) error{
		"before the sleep": func(ctx context.Context, b *Backend, kill func()) error {
			kill()
			return errors.Join(b.Sleep(ctx), b.Wake(ctx))
		},
		"asleep": func(ctx context.Context, b *Backend, kill func()) error {
			err := b.Sleep(ctx)
			kill()
			return errors.Join(err, b.Wake(ctx))
		},
	} {
		withSleepers(t, func(t *testing.T, b *Backend, p sampler.Policy, dead, alive *sleeper) {
			if err := when(t.Context(), b, func() { dead.dead.Store(true) }); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, err := b.Sample(t.Context(), p, request); err != nil || alive.sampled.Load() != 1 {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// If every server dies, before its sleep or in it, Wake waits for one that is
// restarted. It gives up when requests would.
func TestWakeWaitsForAServerThatIsRestarted(t *testing.T) {
	f := func(what string, before, restarted bool) {
		t.Helper()
		withSleepers(t, func(t *testing.T, b *Backend, p sampler.Policy, one, other *sleeper) {
			die := func() { one.dead.Store(true); other.dead.Store(true) }
			if before {
				die()
				time.Sleep(time.Minute) // until both are down
			}
			if err := b.Sleep(t.Context()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			die()
			if restarted {
				time.AfterFunc(time.Minute, func() { one.asleep.Store(false); one.dead.Store(false) })
			}
			err := b.Wake(t.Context())
			if !restarted {
				if !errors.Is(err, errAllDown) {
					t.Errorf("%s: %v", what, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if _, err := b.Sample(t.Context(), p, request); err != nil || one.sampled.Load() != 1 {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	f("before the sleep, restarted", true, true)
	f("asleep, restarted", false, true)
	f("before the sleep, gone", true, false)
	f("asleep, gone", false, false)
}
