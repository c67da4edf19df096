package fleettest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// A version and its neighbour: their log-probs differ by less than servers that
// are alike may, and by more than the trainer and a server may.
const (
	near      = 20
	tolerance = 1e-3
)

// oneIsWrong: nothing that is sampled would show it but by chance.
func (m *misbehaving) oneIsWrong() {
	var wrong atomic.Bool
	wrong.Store(true)
	f := m.open(m.T, Config{Replicas: 2, Tolerance: tolerance, Prepare: func(i int, e *fakeserver.Engine) {
		e.Applied = func(version int) int {
			if i == 1 && version == near && wrong.Load() {
				return near - 1
			}
			return version
		}
	}})
	a := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, near)
	_, err := f.Backend.Publish(m.Context(), a)
	if !errors.Is(err, sampler.ErrCanary) || !strings.Contains(err.Error(), f.Engines[1].URL+": ") ||
		!strings.Contains(err.Error(), "hint: ") {
		m.Errorf("%v, want the replica and a hint", err)
	}
	wrong.Store(false)
	p, err := f.Backend.Publish(m.Context(), a)
	if err != nil {
		m.Fatal(err)
	}
	for range 4 {
		m.right(f, p)
	}
}

func (m *misbehaving) loadFails() {
	var broken atomic.Bool
	broken.Store(true)
	f := m.open(m.T, Config{Replicas: 3, Prepare: func(i int, e *fakeserver.Engine) {
		e.RefuseLoad = func(name string) string {
			if i == 1 && broken.Load() && name == samplertest.Name(2) {
				return "No space left on device"
			}
			return ""
		}
	}})
	_, p := m.publish(f, 1)
	a := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 2)
	_, err := f.Backend.Publish(m.Context(), a)
	if err == nil || !strings.Contains(err.Error(), f.Engines[1].URL) ||
		!strings.Contains(err.Error(), "No space left on device") {
		m.Errorf("%v, want the replica and the reason", err)
	}
	for _, e := range f.Engines {
		if got := e.Adapters(); !slices.Equal(got, []string{samplertest.Name(1)}) {
			m.Errorf("%s has %v", e.URL, got)
		}
	}
	if _, err := f.Backend.Sample(m.Context(), sampler.Policy{Version: 2, Name: samplertest.Name(2)},
		asked); !errors.Is(err, sampler.ErrPolicyGone) {
		m.Errorf("a version that was not published: %v", err)
	}
	m.right(f, p)
	broken.Store(false)
	q, err := f.Backend.Publish(m.Context(), a)
	if err != nil {
		m.Fatal(err)
	}
	m.right(f, q)
}

// loadFailsForAWhile: also a load that was done although its answer was lost.
func (m *misbehaving) loadFailsForAWhile() {
	for _, fault := range []fakeserver.LoadFault{fakeserver.LoadFails, fakeserver.LoadBusy, fakeserver.LoadLost} {
		var failed atomic.Int64
		f := m.open(m.T, Config{Replicas: 2, Prepare: func(i int, e *fakeserver.Engine) {
			e.LoadFault = func(name string) fakeserver.LoadFault {
				if i == 1 && name == samplertest.Name(1) && failed.Add(1) <= 2 {
					return fault
				}
				return ""
			}
		}})
		_, p := m.publish(f, 1)
		if failed.Load() != 3 {
			m.Errorf("%s: %d loads", fault, failed.Load())
		}
		for range 4 {
			m.right(f, p)
		}
	}
}

func (m *misbehaving) dies() {
	back := make(chan string, 8)
	var died atomic.Pointer[fakeserver.Engine]
	f := m.open(m.T, Config{Replicas: 3, OnReturn: func(url string) { back <- url },
		Prepare: func(_ int, e *fakeserver.Engine) {
			e.Fault = func(s fakeserver.Seen) samplertest.Fault {
				if s.MaxTokens == asked.MaxTokens && died.CompareAndSwap(nil, e) {
					return samplertest.FaultDie
				}
				return ""
			}
		}})
	_, p := m.publish(f, 1)
	m.right(f, p) // by another
	dead := died.Load()
	_, q := m.publish(f, 2) // without it
	dead.Revive()
	if url := <-back; url != dead.URL {
		m.Errorf("%s is back, %s had died", url, dead.URL)
	}
	if got := dead.Adapters(); !slices.Equal(got, []string{p.Name, q.Name}) {
		m.Errorf("it is back with %v", got)
	}
	for range 3 {
		m.right(f, q)
	}
}

func (m *misbehaving) startedAgain() {
	back := make(chan string, 8)
	f := m.open(m.T, Config{Replicas: 1, OnReturn: func(url string) { back <- url }})
	_, p := m.publish(f, 1)
	f.Engines[0].Revive() // between two requests: its adapters are gone
	m.right(f, p)
	<-back
}

func (m *misbehaving) comesBackWrong() {
	var wrong atomic.Bool
	seen := make(chan struct{}, 2)
	back := make(chan string, 1)
	f := m.open(m.T, Config{Replicas: 2, Tolerance: tolerance, OnReturn: func(url string) { back <- url },
		Prepare: func(i int, e *fakeserver.Engine) {
			e.Applied = func(version int) int {
				if i == 0 && version == near && wrong.Load() {
					select {
					case seen <- struct{}{}:
					default:
					}
					return version + 1
				}
				return version
			}
		}})
	_, p := m.publish(f, near)
	wrong.Store(true)
	f.Engines[0].Kill()
	m.right(f, p)
	f.Engines[0].Revive()
	for range 2 { // its first check and its second
		select {
		case <-seen:
		case url := <-back:
			m.Fatalf("%s is back", url)
		}
	}
	for range 20 {
		m.right(f, p)
	}
}

func (m *misbehaving) allDead() {
	f := m.open(m.T, Config{Replicas: 2, Patience: 50 * time.Millisecond})
	_, p := m.publish(f, 1)
	for _, e := range f.Engines {
		e.Kill()
	}
	m.fails(f, p, f.Engines[0].URL, f.Engines[1].URL, "hint: ")
	enough := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(m.Context(), 50*time.Millisecond, enough)
	defer cancel()
	_, err := f.Backend.Publish(ctx, fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 2))
	if !errors.Is(err, enough) || !strings.Contains(err.Error(), f.Engines[0].URL) {
		m.Errorf("publish on dead servers: %v", err)
	}
}

func (m *misbehaving) neverInPlace() {
	f := m.open(m.T, Config{Replicas: 1})
	_, p := m.publish(f, 1)
	other := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 1)
	for range 2 {
		if _, err := f.Backend.Publish(m.Context(), other); err == nil || !strings.Contains(err.Error(), "belongs to") {
			m.Errorf("another directory: %v", err)
		}
		if err := f.Backend.Retire(m.Context(), p); err != nil { // still not, when it is retired
			m.Error(err)
		}
	}
	if got := f.Engines[0].Adapters(); len(got) != 0 {
		m.Errorf("%v is loaded", got)
	}
}

func (m *misbehaving) leftOver() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: func(_ int, e *fakeserver.Engine) {
		e.AddAdapter(samplertest.Name(1), fakeserver.WriteAdapter(m.T, e.Policy, 30).Dir)
	}})
	_, p := m.publish(f, 1)
	m.right(f, p)
}

// admission: what the server says is waiting waits here instead.
func (m *misbehaving) admission() {
	looked := make(chan struct{}, 1)
	var most atomic.Int64
	f := m.open(m.T, Config{Replicas: 1, Prepare: func(_ int, e *fakeserver.Engine) {
		e.Waiting = func() int {
			select {
			case looked <- struct{}{}:
			default:
			}
			return 1000
		}
		e.Fault = func(s fakeserver.Seen) samplertest.Fault {
			if s.MaxTokens == asked.MaxTokens {
				most.Store(max(most.Load(), int64(e.Running())))
			}
			return ""
		}
	}})
	_, p := m.publish(f, 1)
	for range 3 { // the first may be from before the last look; two looks later the limit is set
		<-looked
	}
	var group errgroup.Group
	for range 64 {
		group.Go(func() error { _, err := f.Backend.Sample(m.Context(), p, asked); return err })
	}
	if err := group.Wait(); err != nil {
		m.Error(err)
	}
	if n := most.Load(); n != 1 {
		m.Errorf("%d requests at once at a server where 1000 wait", n)
	}
}

func (m *misbehaving) sticky() {
	var answered [3]atomic.Int64
	f := m.open(m.T, Config{Replicas: 3, Prepare: func(i int, e *fakeserver.Engine) {
		e.Fault = func(s fakeserver.Seen) samplertest.Fault {
			if s.MaxTokens == asked.MaxTokens {
				answered[i].Add(1)
			}
			return ""
		}
	}})
	_, p := m.publish(f, 1)
	r := asked
	r.Session = "s"
	for range 9 {
		if _, err := f.Backend.Sample(m.Context(), p, r); err != nil {
			m.Fatal(err)
		}
	}
	for i := range answered {
		if n := answered[i].Load(); n != 0 && n != 9 {
			m.Errorf("replica %d answered %d of the session's 9 requests", i, n)
		}
	}
}
