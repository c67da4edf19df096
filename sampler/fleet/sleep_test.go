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

// sleeper is a fake that can sleep, and be dead.
type sleeper struct {
	fake
	dead, asleep atomic.Bool
	wakes        atomic.Int64
	sampled      atomic.Int64 // requests of the tests
}

func newSleeper(name string) *sleeper {
	d := &sleeper{fake: fake{name: name}}
	d.health = func(context.Context) error { return d.alive() }
	d.complete = func(_ context.Context, model string, r sampler.Request) (Answer, error) {
		if r.MaxTokens == request.MaxTokens {
			d.sampled.Add(1)
		}
		return writes(model, r), d.alive()
	}
	return d
}

func (d *sleeper) alive() error {
	if d.dead.Load() {
		return ErrLost
	}
	return nil
}

func (d *sleeper) Probe(ctx context.Context) (Probe, error) {
	p, _ := d.fake.Probe(ctx)
	p.Sleeps = true
	return p, d.alive()
}

func (d *sleeper) Asleep(context.Context) (bool, error) { return d.asleep.Load(), d.alive() }

func (d *sleeper) Sleep(context.Context) error {
	if d.dead.Load() {
		return ErrLost
	}
	d.asleep.Store(true)
	return nil
}

func (d *sleeper) Wake(context.Context) error {
	if d.dead.Load() {
		return ErrLost
	}
	d.asleep.Store(false)
	d.wakes.Add(1)
	return nil
}

// withSleepers runs f with two replicas that can sleep, on a clock of its own.
func withSleepers(t *testing.T, f func(t *testing.T, b *Backend, p sampler.Policy, one, other *sleeper)) {
	synctest.Test(t, func(t *testing.T) {
		one, other := newSleeper("one"), newSleeper("other")
		b, p := open(t, Config{Servers: []Server{one, other}, HealthInterval: time.Second})
		f(t, b, p, one, other)
		b.Close()
	})
}

// A server that is down takes no part in the sleep, and does not serve before
// the others do when it is alive again.
func TestTheDeadDoNotKeepTheOthersAwake(t *testing.T) {
	withSleepers(t, func(t *testing.T, b *Backend, p sampler.Policy, dead, alive *sleeper) {
		dead.dead.Store(true)
		time.Sleep(time.Minute) // it is noticed
		for range 2 {           // the second changes nothing
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
			if r.out() {
				t.Errorf("%s is not back after a minute", r.server.URL())
			}
		}
	})
}

// A request that hangs where a server is down is nobody's to wait for.
func TestAHangAtADeadServerDoesNotKeepTheOthersAwake(t *testing.T) {
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

func TestAServerThatDiesUnseenIsLeftBehind(t *testing.T) {
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

func TestNobodyLeftToSleepOrWakeIsAnError(t *testing.T) {
	withSleepers(t, func(t *testing.T, b *Backend, _ sampler.Policy, one, other *sleeper) {
		if err := b.Sleep(t.Context()); err != nil {
			t.Fatal(err)
		}
		one.dead.Store(true)
		other.dead.Store(true)
		if err := b.Wake(t.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("wake: %v", err)
		}
	})
	withSleepers(t, func(t *testing.T, b *Backend, _ sampler.Policy, one, other *sleeper) {
		one.dead.Store(true)
		other.dead.Store(true)
		time.Sleep(time.Minute)
		if err := b.Sleep(t.Context()); !errors.Is(err, errAllDown) {
			t.Errorf("sleep: %v", err)
		}
	})
}
