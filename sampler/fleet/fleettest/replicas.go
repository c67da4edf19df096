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

// The log-probs of similarVersion and its neighbours differ by less than two equal servers may differ, and by more than
// tolerance, the bound between trainer and server.
const (
	similarVersion = 20
	tolerance      = 1e-3
)

// oneServesAnotherVersion: the two versions are so similar that their completions do not differ.
func (m *suite) oneServesAnotherVersion() {
	var wrong atomic.Bool
	wrong.Store(true)
	f := m.open(m.T, Config{Replicas: 2, Tolerance: tolerance, Prepare: func(i int, e *fakeserver.Engine) {
		e.Applied = func(version int) int {
			if i == 1 && version == similarVersion && wrong.Load() {
				return similarVersion - 1
			}
			return version
		}
	}})
	a := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, similarVersion)
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
		m.checkSample(f, p)
	}
}

func (m *suite) loadFails() {
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
		testRequest); !errors.Is(err, sampler.ErrPolicyGone) {
		m.Errorf("a version that was not published: %v", err)
	}
	m.checkSample(f, p)
	broken.Store(false)
	q, err := f.Backend.Publish(m.Context(), a)
	if err != nil {
		m.Fatal(err)
	}
	m.checkSample(f, q)
}

// loadIsRetried also covers a load that succeeded although its answer was lost.
func (m *suite) loadIsRetried() {
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
			m.checkSample(f, p)
		}
	}
}

func (m *suite) dies() {
	back := make(chan string, 8)
	var died atomic.Pointer[fakeserver.Engine]
	f := m.open(m.T, Config{Replicas: 3, OnReturn: func(url string) { back <- url },
		Prepare: func(_ int, e *fakeserver.Engine) {
			e.Fault = func(s fakeserver.CompletionRequest) samplertest.Fault {
				if s.MaxTokens == testRequest.MaxTokens && died.CompareAndSwap(nil, e) {
					return samplertest.FaultDie
				}
				return ""
			}
		}})
	_, p := m.publish(f, 1)
	m.checkSample(f, p) // another replica answers
	dead := died.Load()
	_, q := m.publish(f, 2) // on the other replicas
	dead.Revive()
	if url := <-back; url != dead.URL {
		m.Errorf("%s returned, %s had died", url, dead.URL)
	}
	if got := dead.Adapters(); !slices.Equal(got, []string{p.Name, q.Name}) {
		m.Errorf("it returned with %v", got)
	}
	for range 3 {
		m.checkSample(f, q)
	}
}

func (m *suite) restarts() {
	back := make(chan string, 8)
	f := m.open(m.T, Config{Replicas: 1, OnReturn: func(url string) { back <- url }})
	_, p := m.publish(f, 1)
	f.Engines[0].Revive() // without adapters
	m.checkSample(f, p)
	<-back
}

func (m *suite) returnsWrong() {
	var wrong atomic.Bool
	seen := make(chan struct{}, 2)
	back := make(chan string, 1)
	f := m.open(m.T, Config{Replicas: 2, Tolerance: tolerance, OnReturn: func(url string) { back <- url },
		Prepare: func(i int, e *fakeserver.Engine) {
			e.Applied = func(version int) int {
				if i == 0 && version == similarVersion && wrong.Load() {
					select {
					case seen <- struct{}{}:
					default:
					}
					return version + 1
				}
				return version
			}
		}})
	_, p := m.publish(f, similarVersion)
	wrong.Store(true)
	f.Engines[0].Kill()
	m.checkSample(f, p)
	f.Engines[0].Revive()
	for range 2 { // the replica fails two checks
		select {
		case <-seen:
		case url := <-back:
			m.Fatalf("%s returned", url)
		}
	}
	for range 20 {
		m.checkSample(f, p)
	}
}

func (m *suite) allDead() {
	f := m.open(m.T, Config{Replicas: 2, Patience: 50 * time.Millisecond})
	_, p := m.publish(f, 1)
	for _, e := range f.Engines {
		e.Kill()
	}
	m.checkFailure(f, p, f.Engines[0].URL, f.Engines[1].URL, "hint: ")
	cause := errors.New("the test's deadline")
	ctx, cancel := context.WithTimeoutCause(m.Context(), 50*time.Millisecond, cause)
	defer cancel()
	_, err := f.Backend.Publish(ctx, fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 2))
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), f.Engines[0].URL) {
		m.Errorf("publish on dead servers: %v", err)
	}
}

func (m *suite) nameKeepsItsContent() {
	f := m.open(m.T, Config{Replicas: 1})
	_, p := m.publish(f, 1)
	other := fakeserver.WriteAdapter(m.T, f.Engines[0].Policy, 1)
	for range 2 {
		if _, err := f.Backend.Publish(m.Context(), other); err == nil || !strings.Contains(err.Error(), "belongs to") {
			m.Errorf("another directory: %v", err)
		}
		if err := f.Backend.Retire(m.Context(), p); err != nil { // the name keeps its content after it is retired
			m.Error(err)
		}
	}
	if got := f.Engines[0].Adapters(); len(got) != 0 {
		m.Errorf("%v is loaded", got)
	}
}

func (m *suite) replacesForeignAdapter() {
	f := m.open(m.T, Config{Replicas: 1, Prepare: func(_ int, e *fakeserver.Engine) {
		e.AddAdapter(samplertest.Name(1), fakeserver.WriteAdapter(m.T, e.Policy, 30).Dir)
	}})
	_, p := m.publish(f, 1)
	m.checkSample(f, p)
}

// admission: if the server reports a long queue, the backend sends one request at a time.
func (m *suite) admission() {
	polled := make(chan struct{}, 1)
	var maxRunning atomic.Int64
	f := m.open(m.T, Config{Replicas: 1, Prepare: func(_ int, e *fakeserver.Engine) {
		e.Waiting = func() int {
			select {
			case polled <- struct{}{}:
			default:
			}
			return 1000
		}
		e.Fault = func(s fakeserver.CompletionRequest) samplertest.Fault {
			if s.MaxTokens == testRequest.MaxTokens {
				maxRunning.Store(max(maxRunning.Load(), int64(e.Running())))
			}
			return ""
		}
	}})
	_, p := m.publish(f, 1)
	for range 3 { // the first signal may be old; after two more polls the limit is set
		<-polled
	}
	var group errgroup.Group
	for range 64 {
		group.Go(func() error { _, err := f.Backend.Sample(m.Context(), p, testRequest); return err })
	}
	if err := group.Wait(); err != nil {
		m.Error(err)
	}
	if n := maxRunning.Load(); n != 1 {
		m.Errorf("%d requests at the same time on a server whose queue has 1000", n)
	}
}

func (m *suite) stickySessions() {
	var answered [3]atomic.Int64
	f := m.open(m.T, Config{Replicas: 3, Prepare: func(i int, e *fakeserver.Engine) {
		e.Fault = func(s fakeserver.CompletionRequest) samplertest.Fault {
			if s.MaxTokens == testRequest.MaxTokens {
				answered[i].Add(1)
			}
			return ""
		}
	}})
	_, p := m.publish(f, 1)
	r := testRequest
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
