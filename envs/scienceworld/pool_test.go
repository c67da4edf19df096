package scienceworld

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/empo2/empo2/orchestrator/process"
)

func TestPoolReusesTheMostRecent(t *testing.T) {
	fs := newFaults(nil)
	p := newPool(3, 2, often, fs.launch)
	defer p.close()
	a, _ := p.acquire(t.Context())
	b, _ := p.acquire(t.Context())
	p.release(a)
	p.release(b)
	if c, _ := p.acquire(t.Context()); c != b {
		t.Error("the instance used last is the warmest")
	} else {
		p.release(c)
	}
	if fs.hosts != 1 {
		t.Errorf("%d hosts for two instances, want 1", fs.hosts)
	}
}

func TestPoolWaitsForAnInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(1, 1, often, newFaults(nil).launch)
		defer p.close()
		a, err := p.acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		late := errors.New("late")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, late)
		defer cancel()
		if _, err := p.acquire(ctx); !errors.Is(err, late) {
			t.Errorf("error %v, want %v", err, late)
		}
		p.release(a)
		if b, err := p.acquire(t.Context()); err != nil || b != a {
			t.Errorf("%v, %v", b, err)
		} else {
			p.release(b)
		}
	})
}

func TestPoolLaunchFailureFreesTheSlot(t *testing.T) {
	fail := errors.New("no memory")
	fs, failures := newFaults(nil), 1
	p := newPool(1, 1, often, func(ctx context.Context) (host, error) {
		if failures--; failures >= 0 {
			return nil, fail
		}
		return fs.launch(ctx)
	})
	defer p.close()
	if _, err := p.acquire(t.Context()); !errors.Is(err, fail) {
		t.Fatalf("error %v, want %v", err, fail)
	}
	a, err := p.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.release(a)
}

// A lost host is replaced within the budget. Each restart is reported with its
// reason, and comes after a growing pause. One budget is for each host and for each
// try of an action.
func TestPoolRestartsHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reported []string
		budget := process.NewBudget(1)
		budget.Report = func(why error) { reported = append(reported, why.Error()) }
		fs, start := newFaults(nil), error(nil)
		p := newPool(1, 1, budget, func(ctx context.Context) (host, error) {
			if start != nil {
				return nil, start
			}
			return fs.launch(ctx)
		})
		defer p.close()
		a, err := p.acquire(t.Context())
		if err != nil || len(reported) > 0 {
			t.Fatal(err, reported)
		}
		began := time.Now()
		for i, pause := range []time.Duration{0, time.Second, 3 * time.Second} {
			a.gw.err = fmt.Errorf("fault %d", i)
			if a, err = p.replace(t.Context(), a); err != nil || time.Since(began) != pause {
				t.Fatalf("restart %d: after %v, %v", i, time.Since(began), err)
			}
		}
		a.gw.err, start = errHung, errors.New("no memory")
		if _, err = p.replace(t.Context(), a); !errors.Is(err, start) {
			t.Errorf("error %v, want %v", err, start)
		}
		if want := []string{"fault 0", "fault 1", "fault 2", errHung.Error()}; !slices.Equal(reported, want) {
			t.Errorf("reported %q, want %q", reported, want)
		}
		for range 2 { // it stays spent
			_, err = p.acquire(t.Context())
			if err == nil || err.Error() != "the JVM was given up after 4 restarts within 30m0s: no memory" {
				t.Errorf("a spent budget: %v", err)
			}
		}
		time.Sleep(time.Hour)
		start = nil
		if a, err = p.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.release(a)
	})
}

// In any order of failures: the pool never lends more instances than its size, or
// an instance twice, or a broken instance, and no host has too many instances.
func TestPoolProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		size, perHost := rapid.IntRange(1, 5).Draw(r, "size"), rapid.IntRange(1, 3).Draw(r, "per host")
		u := &poolUser{pool: newPool(size, perHost, often, newFaults(nil).launch), size: size, perHost: perHost}
		defer u.close()
		r.Repeat(map[string]func(*rapid.T){
			"acquire": u.acquire, "release": u.release, "break": u.breakOne, "replace": u.replace, "": u.check,
		})
	})
}

// A poolUser has the instances that a pool has lent.
type poolUser struct {
	pool          *pool
	size, perHost int
	lent          []*instance
}

func (u *poolUser) close() {
	for _, i := range u.lent {
		u.pool.release(i)
	}
	u.pool.close()
}

// pick draws the index of a lent instance.
func (u *poolUser) pick(r *rapid.T) int {
	if len(u.lent) == 0 {
		r.Skip()
	}
	return rapid.IntRange(0, len(u.lent)-1).Draw(r, "which")
}

func (u *poolUser) acquire(r *rapid.T) {
	if len(u.lent) == u.size {
		r.Skip()
	}
	i, err := u.pool.acquire(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	if i.broken() || i.on.dead {
		r.Fatal("a broken instance was lent")
	}
	u.lent = append(u.lent, i)
}

func (u *poolUser) release(r *rapid.T) {
	k := u.pick(r)
	u.pool.release(u.lent[k])
	u.lent = append(u.lent[:k], u.lent[k+1:]...)
}

func (u *poolUser) breakOne(r *rapid.T) { u.lent[u.pick(r)].gw.err = errHung }

func (u *poolUser) replace(r *rapid.T) {
	k := u.pick(r)
	fresh, err := u.pool.replace(context.Background(), u.lent[k])
	if err != nil {
		r.Fatal(err)
	}
	u.lent[k] = fresh
}

func (u *poolUser) check(r *rapid.T) {
	seen := make(map[*instance]bool)
	for _, i := range u.lent {
		if seen[i] {
			r.Fatal("lent twice")
		}
		seen[i] = true
	}
	for _, h := range u.pool.hosts {
		if h.dead || h.count > u.perHost {
			r.Fatalf("host %+v", h)
		}
	}
}
