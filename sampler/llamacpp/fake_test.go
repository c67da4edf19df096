package llamacpp

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/samplertest"
	"github.com/empo2/empo2/sampler/samplertest/fakeserver"
)

// fake replaces a process by a fake server.
type fake struct {
	*fakeserver.Llama
	once sync.Once
	gone chan struct{}
}

func (f *fake) endpoint() endpoint      { return endpoint{Address: f.URL, Version: "1", Key: f.APIKey} }
func (f *fake) exited() <-chan struct{} { return f.gone }
func (f *fake) err() error              { return errors.New("the fake was killed") }
func (f *fake) stop()                   { f.kill() }
func (f *fake) memory() int64           { return 1000 }
func (f *fake) kill() {
	f.once.Do(func() {
		close(f.gone)
		f.CloseClientConnections()
		f.Close()
	})
}

// fakes starts fake servers. Set its fields before Open.
type fakes struct {
	policy samplertest.Policy
	// prepare changes the n-th server, counted from 0, before it is used. Its error
	// is an error of the start.
	prepare func(n int, s *fakeserver.Llama) error
	keys    []pair          // of the base model's file; nil: a model with a chat template
	watch   *watchdog.Watch // of the backend; may be nil
	// launched is told of each start, and failing returns its error. Both may be nil.
	launched func(launch)
	failing  func(launch) error

	mu      sync.Mutex
	started []*fake
}

func script(version int, _ []int32) []samplertest.Choice {
	return []samplertest.Choice{{Text: "pull jade", Weight: 3}, {Text: "pull amber", Weight: 1 + float64(version)},
		{Text: "look around", Weight: 1}}
}

func newFakes() *fakes {
	return &fakes{policy: samplertest.Policy{Tokenizer: samplertest.NewTokenizer(" jade", "pull"), Script: script}}
}

func (f *fakes) start(_ context.Context, l launch) (server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.launched != nil {
		f.launched(l)
	}
	if f.failing != nil {
		if err := f.failing(l); err != nil {
			return nil, err
		}
	}
	version := 0
	for samplertest.Name(version) != l.Alias {
		version++
	}
	s := fakeserver.NewLlama(f.policy, version)
	s.Slots, s.Context, s.APIKey = l.Slots, l.Context/l.Slots, "key"
	if f.prepare != nil {
		if err := f.prepare(len(f.started), s); err != nil {
			s.Close()
			return nil, err
		}
	}
	p := &fake{Llama: s, gone: make(chan struct{})}
	f.started = append(f.started, p)
	return p, nil
}

func (f *fakes) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.started)
}

func (f *fakes) last() *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started[len(f.started)-1]
}

// open opens a backend over the fakes.
func (f *fakes) open(t testing.TB, cfg Config) (*Backend, error) {
	t.Helper()
	keys := f.keys
	if keys == nil {
		keys = append(baseKeys("qwen2"), pair{"tokenizer.chat_template", text("{{ messages }}")})
	}
	cfg.Python, cfg.BaseGGUF = "python3", writeGGUF(t, keys...)
	if cfg.Budget.Window == 0 {
		cfg.Budget = process.Budget{Restarts: 3, Window: time.Hour, Pause: time.Nanosecond}
	}
	if cfg.Slots == 0 {
		cfg.Slots = 3
	}
	b, err := open(watchdog.With(t.Context(), f.watch), cfg, f.start)
	if err == nil {
		t.Cleanup(func() { b.Close() })
	}
	return b, err
}

// serve returns a backend that serves version 0.
func (f *fakes) serve(t *testing.T, cfg Config) (*Backend, sampler.Policy) {
	t.Helper()
	b, err := f.open(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := b.Publish(t.Context(), sampler.Adapter{})
	if err != nil {
		t.Fatal(err)
	}
	return b, p
}

func fakeAdapter(t testing.TB, version int) sampler.Adapter {
	return sampler.Adapter{Version: version, GGUF: writeGGUF(t, adapterKeys("qwen2")...)}
}

// faultAt injects a fault into the n-th completion of every server, counted from 0.
// Completion 0 is the backend's check.
func faultAt(n int, fault samplertest.Fault) func(int, *fakeserver.Llama) error {
	return func(_ int, s *fakeserver.Llama) error {
		s.Fault = func(i int) samplertest.Fault {
			if i == n {
				return fault
			}
			return ""
		}
		return nil
	}
}

// A pair is a key of a GGUF file with its encoded type and value.
type pair struct {
	key   string
	value []byte
}

func writeGGUF(t testing.TB, pairs ...pair) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.gguf")
	if err := os.WriteFile(path, encodeGGUF(3, pairs...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
