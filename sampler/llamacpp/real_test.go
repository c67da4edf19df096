package llamacpp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
)

// TestReal needs a real llama-server: Python with the trainer's packages.
func TestReal(t *testing.T) {
	r := newReal(t)
	r.startOracle(t)
	for _, test := range []struct {
		name string
		f    func(*testing.T, *real)
	}{
		{"conformance", testConformance},
		{"log-probs equal torch's", testLogprobs},
		{"a prefix is reused", testPrefix},
		{"killed servers are replaced", testKilled},
		{"a hung server is replaced", testHung},
		{"a stopped replica does not hold requests", testStoppedReplica},
		{"versions are swapped under load", testSwap},
		{"processes end with the backend and with the parent", testProcessEnds},
		{"start errors have exitHints", testStartErrors},
		{"adapters that changed are refused", testChangedAdapters},
		{"a model is converted once", testConverted},
		{"a llama-server binary", testBinary},
		{"templates render like the server", testTemplates},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, r) })
	}
}

func testConformance(t *testing.T, r *real) {
	samplertest.Run(t, func(t *testing.T) samplertest.Fixture {
		b := r.open(t, r.config())
		return samplertest.Fixture{
			Backend: b, Tokenizer: b, Control: b, Tolerance: 1e-4, Prompt: "You are at a door.",
			Adapter: func(t *testing.T, version int) sampler.Adapter { return r.adapter(t, version) },
		}
	})
}

func (r *real) publish(t testing.TB, b *Backend, a sampler.Adapter) sampler.Policy {
	t.Helper()
	p, err := b.Publish(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tokens(t testing.TB, b *Backend, text string) []int32 {
	t.Helper()
	ids, err := b.Tokenize(t.Context(), text)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func sample(t testing.TB, b *Backend, p sampler.Policy, r sampler.Request) sampler.Completion {
	t.Helper()
	c, err := b.Sample(t.Context(), p, r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testLogprobs sends concurrent requests and compares their log-probs with torch.
func testLogprobs(t *testing.T, r *real) {
	b := r.open(t, r.config())
	p := r.publish(t, b, sampler.Adapter{})
	answers := make([]sampler.Completion, 64)
	requests := make([]sampler.Request, len(answers))
	for i := range requests {
		prompt := tokens(t, b, "Room "+strconv.Itoa(i*i)+": a lever, a door and a sign.")
		requests[i] = sampler.Request{Prompt: prompt, MaxTokens: 24, Temperature: 1, Seed: uint64(i),
			Session: strconv.Itoa(i)}
	}
	var group errgroup.Group
	for i := range requests {
		group.Go(func() (err error) { answers[i], err = b.Sample(t.Context(), p, requests[i]); return err })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	worst, sampled := 0.0, 0
	for i, c := range answers {
		want, err := r.oracle.Score("")(t.Context(), slices.Concat(requests[i].Prompt, c.IDs))
		if err != nil {
			t.Fatal(err)
		}
		worst = math.Max(worst, samplertest.MaxDiff(c.Logprobs, want[len(requests[i].Prompt)-1:]))
		sampled += len(c.IDs)
	}
	t.Logf("%d tokens, largest difference %.2g", sampled, worst)
	if worst > 1e-4 {
		t.Errorf("log-probs differ from torch's by %g", worst)
	}
}

// testChangedAdapters removes or damages an adapter before a server loads it: when it is
// published, and when the server was killed and the next one loads it again.
func testChangedAdapters(t *testing.T, r *real) {
	cfg := r.config()
	cfg.Budget = process.Budget{Restarts: 1, Window: time.Hour, Pause: time.Nanosecond}
	b := r.open(t, cfg)
	damages := map[string]func(path string) error{
		"removed": os.Remove,
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"cut":     func(path string) error { return os.Truncate(path, 1000) },
		"no GGUF": func(path string) error { return os.WriteFile(path, []byte("<html>"), 0o600) },
	}
	version := 1
	for name, damage := range damages {
		a := r.adapter(t, version)
		version++
		if err := damage(a.GGUF); err != nil {
			t.Fatal(err)
		}
		_, err := b.Publish(t.Context(), a)
		if err == nil || !strings.Contains(err.Error(), a.GGUF) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	changed := errors.New("the content of the adapter differs from its manifest")
	var verified atomic.Int64
	a := r.adapter(t, version)
	a.Verify = func() error {
		if verified.Add(1) == 1 {
			return nil
		}
		return changed
	}
	p := r.publish(t, b, a)
	if err := os.Truncate(a.GGUF, 1000); err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	v := b.versions[p.Version]
	b.mu.Unlock()
	syscall.Kill(pid(t, v), syscall.SIGKILL)
	_, err := b.Sample(t.Context(), p, sampler.Request{Prompt: tokens(t, b, "a door"), MaxTokens: 1, Temperature: 1})
	if !errors.Is(err, sampler.ErrPolicyGone) || !errors.Is(err, changed) || !strings.Contains(err.Error(), adapterHint) {
		t.Errorf("a changed adapter after a restart: %v", err)
	}
}

// testPrefix extends conversations turn by turn. Their prefix must come from the
// cache of the slot, and the answers must equal those without a cache.
func testPrefix(t *testing.T, r *real) {
	oneSlot := r.config()
	oneSlot.Slots = 1
	b, fresh := r.open(t, r.config()), r.open(t, oneSlot)
	p, q := r.publish(t, b, sampler.Adapter{}), r.publish(t, fresh, sampler.Adapter{})
	const sessions, turns = 4, 5
	var prompts [sessions][]int32
	for turn := range turns {
		for s := range prompts {
			prompts[s] = append(prompts[s],
				tokens(t, b, strconv.Itoa(s)+" is the player, "+strconv.Itoa(turn)+" the turn: the door is shut. ")...)
			request := sampler.Request{Prompt: prompts[s], MaxTokens: 6, Temperature: 1, Seed: uint64(100*turn + s),
				Session: "s" + strconv.Itoa(s)}
			before := b.Stats()
			cached := sample(t, b, p, request)
			after := b.Stats()
			if turn > 0 && after.PromptCached == before.PromptCached {
				t.Errorf("turn %d of session %d computed its whole prompt", turn, s)
			}
			request.Session = ""
			recomputed := sample(t, fresh, q, request)
			if !slices.Equal(cached.IDs, recomputed.IDs) || samplertest.MaxDiff(cached.Logprobs, recomputed.Logprobs) > 1e-5 {
				t.Errorf("cached %v %v, computed again %v %v", cached.IDs, cached.Logprobs, recomputed.IDs, recomputed.Logprobs)
			}
			prompts[s] = append(prompts[s], cached.IDs...)
		}
	}
	before := b.Stats().PromptCached
	sample(t, b, p, sampler.Request{Prompt: prompts[2], MaxTokens: 1, Session: "another with the same prompt"})
	if n := b.Stats().PromptCached - before; n < int64(len(prompts[2])/2) {
		t.Errorf("another session found %d of %d tokens in the cache", n, len(prompts[2]))
	}
	t.Logf("one slot per session: %+v\none slot for all: %+v", b.Stats(), fresh.Stats())
	if b.Stats().PromptProcessed*2 > fresh.Stats().PromptProcessed {
		t.Error("most of the prompts was computed again")
	}
}

// A load is a sequence of requests from several clients.
type load struct {
	backend *Backend
	policy  sampler.Policy
	request sampler.Request
	clients int
}

// start sends requests until stop is closed.
func (l load) start(t *testing.T, group *errgroup.Group, stop <-chan struct{}) {
	for i := range l.clients {
		group.Go(func() error {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return nil
				default:
				}
				r := l.request
				r.Seed, r.Session = uint64(1000*i+k), strconv.Itoa(i)
				if _, err := l.backend.Sample(t.Context(), l.policy, r); err != nil {
					return err
				}
			}
		})
	}
}

func testKilled(t *testing.T, r *real) {
	cfg := r.config()
	restarted := make(chan string, 8)
	cfg.OnRestart = func(name string, _ error) { restarted <- name }
	b := r.open(t, cfg)
	p := r.publish(t, b, sampler.Adapter{})
	var group errgroup.Group
	stop := make(chan struct{})
	request := sampler.Request{Prompt: tokens(t, b, "The door"), MaxTokens: 60, Temperature: 1}
	load{b, p, request, 8}.start(t, &group, stop)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		syscall.Kill(pid(t, b.base), sig)
		if got := <-restarted; got != p.Name {
			t.Errorf("restarted %v", got)
		}
	}
	close(stop)
	if err := group.Wait(); err != nil {
		t.Errorf("a request failed: %v", err)
	}
	if s := b.Stats(); s.Restarts != 2 || s.Retries == 0 {
		t.Errorf("%+v", s)
	}
}

func testHung(t *testing.T, r *real) {
	cfg := r.config()
	cfg.RequestTimeout = 2 * time.Second
	b := r.open(t, cfg)
	p := r.publish(t, b, sampler.Adapter{})
	hang(t, pid(t, b.base))
	request := sampler.Request{Prompt: tokens(t, b, "The door"), MaxTokens: 4}
	hang(t, pid(t, b.base))
	sample(t, b, p, request)
	if s := b.Stats(); s.Restarts != 2 {
		t.Errorf("%+v", s)
	}
}

// hang stops all threads of a process. With /proc it waits until none runs.
func hang(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for anyThreadRuns(pid) {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the process does not stop")
		}
	}
}

// anyThreadRuns says whether a thread has another state than stopped (Linux).
func anyThreadRuns(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if _, state, ok := strings.Cut(string(stat), ") "); err == nil && ok && state[0] != 'T' {
			return true
		}
	}
	return false
}

// testSwap publishes versions and retires the previous ones while requests are in
// flight. Every request must be answered by its own version.
func testSwap(t *testing.T, r *real) {
	var adapters []sampler.Adapter
	for version := 1; version <= 3; version++ {
		adapters = append(adapters, r.adapter(t, version))
	}
	b := r.open(t, r.config())
	policy := r.publish(t, b, sampler.Adapter{})
	request := sampler.Request{Prompt: tokens(t, b, "The door is shut."), MaxTokens: 30, Temperature: 1}
	for _, a := range adapters {
		var group errgroup.Group
		stop := make(chan struct{})
		load{b, policy, request, 6}.start(t, &group, stop)
		next := r.publish(t, b, a)
		close(stop)
		if err := b.Retire(t.Context(), policy); err != nil {
			t.Error(err)
		}
		if err := group.Wait(); err != nil {
			t.Errorf("under version %d: %v", policy.Version, err)
		}
		policy = next
		c := sample(t, b, policy, request)
		want, err := a.Score(t.Context(), slices.Concat(request.Prompt, c.IDs))
		if err != nil {
			t.Fatal(err)
		}
		if d := samplertest.MaxDiff(c.Logprobs, want[len(request.Prompt)-1:]); d > 1e-4 {
			t.Errorf("version %d differs from torch by %g", a.Version, d)
		}
	}
}

func testProcessEnds(t *testing.T, r *real) {
	b := r.open(t, r.config())
	child := pid(t, b.base)
	b.Close()
	if err := syscall.Kill(child, 0); err != syscall.ESRCH {
		t.Errorf("process %d after Close: %v", child, err)
	}

	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentEnv+"="+r.gguf)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err = strconv.Atoi(line[:len(line)-1])
	if err != nil {
		t.Fatal(line)
	}
	parent.Process.Kill()
	io.Copy(io.Discard, out)
	parent.Wait()
	for running(child) { // the test binary has a time limit
		time.Sleep(time.Millisecond) // the end of another process can only be polled
	}
}

// running says whether a process runs. It is false for a zombie.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || !strings.Contains(string(stat), ") Z ")
}
