package llamacpp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// sampleMany sends requests at the same time, each of a session of its own.
func sampleMany(t testing.TB, b *Backend, p sampler.Policy, n int, change func(i int, r *sampler.Request)) (
	out []sampler.Completion) {
	t.Helper()
	out = make([]sampler.Completion, n)
	var group errgroup.Group
	for i := range n {
		group.Go(func() (err error) {
			r := testRequest
			r.Session, r.Seed = fmt.Sprint("episode", i), uint64(i)
			if change != nil {
				change(i, &r)
			}
			out[i], err = b.Sample(t.Context(), p, r)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return out
}

// completions returns how many requests each server has answered, without the check at
// its start.
func (f *fakes) completions() (n []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.started {
		n = append(n, len(s.Requests())-1)
	}
	return n
}

// A version has a process on each device. They share its requests.
func TestReplicasShareTheRequests(t *testing.T) {
	f := newFakes()
	var devices []string
	f.launched = func(l launch) {
		devices = append(devices, strings.Join(l.inherit, " "))
	}
	b, p := f.serve(t, Config{Replicas: 2, Devices: []string{"0", "2,3"}, Slots: 2, Inherit: []string{"NAME"}})
	q, err := b.Publish(t.Context(), fakeAdapter(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"NAME CUDA_VISIBLE_DEVICES=0", "NAME CUDA_VISIBLE_DEVICES=2,3"}
	slices.Sort(devices)
	if !slices.Equal(devices, []string{want[0], want[0], want[1], want[1]}) {
		t.Errorf("devices %q", devices)
	}
	if c, err := b.Capabilities(t.Context()); err != nil || c.Replicas != 2 || c.Parallel != 4 {
		t.Errorf("%+v, %v", c, err)
	}
	sampleMany(t, b, p, 20, nil)
	sampleMany(t, b, q, 20, nil)
	for i, n := range f.completions() {
		if n == 0 {
			t.Errorf("process %d answered %d of 20 requests", i, n)
		}
	}
	before := f.completions()
	for range 6 {
		sampleMany(t, b, q, 1, nil)
	}
	after := f.completions()
	if moved := after[2] - before[2]; moved > 1 && moved < 5 { // it moves once if its replica is the slower one
		t.Errorf("a session's 6 requests: %d at one replica", moved)
	}
	if b.MemoryInUse() != 4000 {
		t.Errorf("%d bytes", b.MemoryInUse())
	}
	if err := b.Retire(t.Context(), q); err != nil {
		t.Error(err)
	}
	for i, s := range f.started {
		if ended := !(&engine{server: s}).runs(); ended != (i >= 2) {
			t.Errorf("process %d: ended %v after version 1 was retired", i, ended)
		}
	}
}

// While a replica's process is replaced, the other one serves. The new process serves
// the same version.
func TestAnotherReplicaServesDuringARestart(t *testing.T) {
	f := newFakes()
	loading, later := make(chan struct{}), make(chan struct{})
	f.prepare = func(n int, _ *fakeserver.Llama) error {
		switch n {
		case 2:
			<-loading
		case 3:
			<-later
		}
		return nil
	}
	restarted := make(chan string, 2)
	b, p := f.serve(t, Config{Replicas: 2, OnRestart: func(name string, _ error) { restarted <- name }})
	f.started[0].kill()
	sampleMany(t, b, p, 8, nil)
	if name := <-restarted; !strings.HasPrefix(name, p.Name+", replica ") {
		t.Errorf("%q restarted", name)
	}
	close(loading)
	for f.count() < 3 || b.base.replicas[0].current() == nil || b.base.replicas[1].current() == nil {
		time.Sleep(time.Millisecond)
	}
	f.started[1].kill()
	sampleMany(t, b, p, 8, nil)
	close(later)
	if got := f.completions()[2]; got < 8 {
		t.Errorf("the new process answered %d requests", got)
	}
}

// A replica that is given up leaves its version to the others, and is tried again with
// the next version. If all are given up, the version is gone.
func TestAReplicaThatIsGivenUp(t *testing.T) {
	f := newFakes()
	broken := errors.New("the device is gone")
	gone := map[string]bool{}
	f.failing = func(l launch) error {
		if gone[l.inherit[len(l.inherit)-1]] {
			return broken
		}
		return nil
	}
	b, p := f.serve(t, Config{Replicas: 2, Devices: []string{"0", "1"},
		Budget: process.Budget{Restarts: 1, Window: time.Hour, Pause: 1}})
	lose := func(device int) {
		f.mu.Lock()
		gone[fmt.Sprint("CUDA_VISIBLE_DEVICES=", device)] = true
		f.mu.Unlock()
		b.base.replicas[device].current().kill()
	}
	lose(0)
	sampleMany(t, b, p, 8, nil)
	if _, err := b.Publish(t.Context(), fakeAdapter(t, 1)); !errors.Is(err, broken) {
		t.Errorf("published on a device that is gone: %v", err)
	}
	lose(1)
	_, err := b.Sample(t.Context(), p, testRequest)
	if !errors.Is(err, sampler.ErrPolicyGone) || !errors.Is(err, broken) {
		t.Error(err)
	}
	f.mu.Lock()
	clear(gone)
	f.mu.Unlock()
	if _, err := b.Publish(t.Context(), sampler.Adapter{}); err != nil {
		t.Error(err)
	}
	sampleMany(t, b, p, 8, nil)
}

// A request to a replica that hangs is answered by the other one, and counted. The text
// of the second attempt is not streamed.
func TestALateRequestIsAnsweredByAnotherReplica(t *testing.T) {
	f := newFakes()
	var hangs atomic.Bool
	f.prepare = func(n int, s *fakeserver.Llama) error {
		s.Fault = func(int) samplertest.Fault {
			if n == 0 && hangs.Load() {
				return samplertest.FaultHang
			}
			return ""
		}
		return nil
	}
	b, p := f.serve(t, Config{Replicas: 2, Slots: 8, RequestTimeout: time.Minute})
	want := sampleMany(t, b, p, 16, nil)
	hangs.Store(true)
	got := sampleMany(t, b, p, 16, nil)
	for i := range want {
		if !slices.Equal(got[i].IDs, want[i].IDs) {
			t.Errorf("request %d: %v, without the fault %v", i, got[i].IDs, want[i].IDs)
		}
	}
	if s := b.Stats(); s.Late == 0 || s.Rescued != s.Late || s.Requests != 34 || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

func TestReplicasAndDevicesMustFit(t *testing.T) {
	f := newFakes()
	if _, err := f.open(t, Config{Replicas: 2, Devices: []string{"0"}}); err == nil ||
		!strings.Contains(err.Error(), "2 replicas and 1 devices") {
		t.Error(err)
	}
}

// testStoppedReplica stops one of two real llama-servers. The other one answers its
// requests with the same tokens, and it serves again when it goes on.
func testStoppedReplica(t *testing.T, r *real) {
	cfg := r.config()
	cfg.Replicas, cfg.HealthInterval = 2, time.Hour
	b := r.open(t, cfg)
	p := r.publish(t, b, r.adapter(t, 1))
	prompt := tokens(t, b, "You are at a door. What do you do?")
	ask := func() []sampler.Completion {
		return sampleMany(t, b, p, 16, func(i int, q *sampler.Request) {
			q.Prompt, q.MaxTokens, q.Session = prompt, 24, fmt.Sprint("episode", i)
		})
	}
	want := ask()
	b.mu.Lock()
	stopped := b.versions[1].replicas[0].current().server.(*child).PID()
	b.mu.Unlock()
	hang(t, stopped)
	got := ask()
	if err := syscall.Kill(stopped, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !slices.Equal(got[i].IDs, want[i].IDs) || samplertest.MaxDiff(got[i].Logprobs, want[i].Logprobs) > 1e-4 {
			t.Errorf("request %d: %v, with both replicas %v", i, got[i].IDs, want[i].IDs)
		}
	}
	s := b.Stats()
	if s.Late == 0 || s.Rescued != s.Late || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
	t.Logf("%d late requests of 16 were answered by the other replica", s.Late)
	ask() // both again
}
