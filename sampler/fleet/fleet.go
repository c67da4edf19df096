// Package fleet combines several replicas of an inference server into one
// sampler.Backend. The servers load LoRA adapters while they run. The backends
// vllm and sglang use it. Start with [Open]; a backend implements [Server].
//
// Versions: a version of the policy is a directory that never changes, under a
// name of its own. [Backend.Publish] loads it on every replica and compares the
// canary, a fixed prompt, with the trainer.
//
// Replicas: a replica is healthy, suspect, down or asleep (replica.go). It is
// declared down (markDown) if it dies, hangs, loses its adapters or answers
// wrongly. Its requests are sent to other replicas. It is readmitted
// (readmit.go) when it serves every published version again and passes the
// canary.
//
// Requests: a request goes to the replica with the fewest requests in flight,
// where those at a slow replica count more. The requests of a session go to the
// replica that has their prefix in its cache. A request that is late at its
// replica is sent to a second one too (admission.Hedge). At most
// Config.MaxInFlight requests are in flight at a replica, and fewer while more
// than a few requests wait in the server's own queue (admission.go). The others
// wait here, because they can still go to another replica.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

var (
	_ sampler.Backend = (*Backend)(nil)
	_ sampler.Sleeper = (*Backend)(nil)
)

// Config describes the replicas. Servers and CanaryPrompt are required.
type Config struct {
	// Servers are the replicas. The Backend owns them: Close closes them, and
	// so does Open if it fails.
	Servers []Server
	// Alias is the prefix of adapter names such as <Alias>-v000012. It must
	// differ between runs on one server. Empty: "policy".
	Alias string
	// Section is the backend's section of the configuration, for example
	// "sampler.vllm". Hints refer to it.
	Section string
	// CanaryPrompt returns a few tokens of ordinary text. Each replica answers
	// it greedily with each version, also after a restart.
	CanaryPrompt func(ctx context.Context) ([]int32, error)
	// Tolerance is the largest allowed difference of the answer's log-probs from
	// the trainer's, or from the first answer's if there is no trainer, in nats.
	// 0: 0.05.
	Tolerance float64

	RequestTimeout time.Duration // of one request at one replica, without waiting for admission; 0: 5 minutes
	LoadTimeout    time.Duration // to serve a version everywhere, or to readmit a replica; 0: 2 minutes
	HealthInterval time.Duration // between two health checks of a replica; 0: 5 seconds
	Patience       time.Duration // how long requests wait while no replica is healthy; 0: 2 minutes
	MaxInFlight    int           // requests at one replica; 0: 64

	// Sleep says that servers may sleep. Open wakes servers that a killed run left
	// asleep. Without Sleep, such a server is an error.
	Sleep bool

	// OnReturn, if not nil, is called with the URL of a replica that was
	// readmitted. It must not call Close.
	OnReturn func(url string)
	Log      zerolog.Logger // the zero value is silent
}

func (c Config) withDefaults() Config {
	setDefault := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Alias == "" {
		c.Alias = "policy"
	}
	if c.Tolerance == 0 {
		c.Tolerance = 0.05
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = defaultMaxInFlight
	}
	setDefault(&c.RequestTimeout, 5*time.Minute)
	setDefault(&c.LoadTimeout, 2*time.Minute)
	setDefault(&c.HealthInterval, 5*time.Second)
	setDefault(&c.Patience, 2*time.Minute)
	return c
}

// Backend is the pool. It is safe for concurrent use.
type Backend struct {
	cfg          Config
	probe        Probe // of the first replica; the others must be equal
	canaryPrompt []int32

	alive      context.Context // ends with Close
	cancel     context.CancelCauseFunc
	goroutines sync.WaitGroup // watchers and unloading of retired versions

	queue      *admission.Queue // its places are the replicas
	publishing *admission.Queue // has one place: Publish, Sleep and Wake run one at a time
	counters   counters

	mu               sync.Mutex
	closed           bool
	replicas         []*replica
	versions         map[int]*version // pending, published and retiring
	dirs             map[int]string   // every version's directory since Open
	changed          chan struct{}    // closed when a replica's state or a version changes
	noneHealthySince time.Time        // zero: a replica is healthy or asleep
	sleeping         bool             // between Sleep and Wake: no replica is readmitted
	// comparison compares a server's tokenizer with the run's; nil until CompareTokenizers.
	comparison func(context.Context, Server) error
}

var errClosed = errors.New("the backend is closed")

// Open probes the servers and starts to watch them. They must be equal. Servers
// that do not answer are down and join later, like replicas that return; at least
// one must answer. The context bounds the start only. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	b := &Backend{
		cfg: cfg.withDefaults(), publishing: admission.New(admission.Config{Limits: []int{1}}),
		versions: map[int]*version{}, dirs: map[int]string{}, changed: make(chan struct{}),
	}
	b.alive, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	b.queue = newQueue(len(cfg.Servers), b.cfg.MaxInFlight)
	for i, s := range cfg.Servers {
		b.replicas = append(b.replicas, &replica{
			b: b, server: s, place: b.queue.Places()[i], loaded: map[string]bool{}, checkSoon: make(chan struct{}, 1),
		})
	}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Backend) start(ctx context.Context) error {
	if len(b.replicas) == 0 || b.cfg.MaxInFlight < 1 {
		return fmt.Errorf("%d servers with %d requests each: both must be positive", len(b.replicas), b.cfg.MaxInFlight)
	}
	if err := b.checkURLs(); err != nil {
		return err
	}
	limit := max(b.cfg.LoadTimeout, b.cfg.Patience) // a server may be restarted meanwhile
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not ready within %v", limit))
	defer cancel()
	if err := b.probeAll(ctx); err != nil {
		return err
	}
	first := b.firstHealthy().server
	end := watchdog.Begin(ctx, "server", "tokenize the canary with "+safetext.URL(first.URL()), limit)
	err := Insist(ctx, first, func() (err error) {
		b.canaryPrompt, err = b.cfg.CanaryPrompt(ctx)
		return err
	})
	end()
	if err != nil {
		return err
	}
	canary := len(b.canaryPrompt) + canaryTokens
	if n := b.probe.Capabilities.ContextLength; len(b.canaryPrompt) == 0 || canary > n {
		return fmt.Errorf("a context of %d tokens is too small for the %d tokens of the canary", n, canary)
	}
	for _, r := range b.replicas {
		b.goroutines.Go(r.watch)
	}
	return nil
}

// checkURLs returns an error if two replicas have the same URL.
func (b *Backend) checkURLs() error {
	seen := map[string]bool{}
	for _, r := range b.replicas {
		url := r.server.URL()
		if seen[url] {
			return fmt.Errorf("%s is named twice\n  hint: %s.urls must name each replica once", url, b.cfg.Section)
		}
		seen[url] = true
	}
	return nil
}

// probeAll probes the servers, which must be equal. Those that do not answer are down,
// unless all are.
func (b *Backend) probeAll(ctx context.Context) error {
	probes, absent := make([]Probe, len(b.replicas)), make([]error, len(b.replicas))
	var group errgroup.Group
	for i, r := range b.replicas {
		group.Go(func() (err error) {
			deadline, _ := ctx.Deadline()
			defer watchdog.Begin(ctx, "server", "probe "+safetext.URL(r.server.URL()), time.Until(deadline))()
			err = Insist(ctx, r.server, func() (err error) { probes[i], err = r.probe(ctx); return err })
			switch {
			case err == nil:
				return nil
			case unreachable(err) && ctx.Err() == nil:
				absent[i] = fmt.Errorf("probe %s: %w", r.server.URL(), err)
				return nil
			}
			return fmt.Errorf("probe %s: %w", r.server.URL(), err)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	first := slices.Index(absent, nil)
	if first < 0 {
		return errors.Join(absent...)
	}
	b.probe = probes[first]
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, r := range b.replicas {
		if absent[i] != nil {
			r.set(down, absent[i])
		} else if err := probes[i].equal(b.probe); err != nil {
			return fmt.Errorf("%s is not a replica of %s: %w", r.server.URL(), b.replicas[first].server.URL(), err)
		}
	}
	return nil
}

// firstHealthy returns the first healthy replica, or the first one if none is.
func (b *Backend) firstHealthy() *replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.replicas {
		if r.state == healthy {
			return r
		}
	}
	return b.replicas[0]
}

// equal returns an error if p and q are not replicas of each other.
func (p Probe) equal(q Probe) error {
	a, c := p.Capabilities, q.Capabilities
	var differ []string
	compare := func(what string, got, want any) {
		if got != want {
			differ = append(differ, fmt.Sprintf("%s is %v, not %v", what, got, want))
		}
	}
	compare("the model's name", p.Model, q.Model)
	compare("the context", a.ContextLength, c.ContextLength)
	compare("the vocabulary", a.VocabSize, c.VocabSize)
	compare("the space of the log-probs", a.LogprobSpace, c.LogprobSpace)
	compare("support of adapters", a.Adapters, c.Adapters)
	compare("support of sleeping", p.Sleeps, q.Sleeps)
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("%s\n  hint: start all replicas with the same command", strings.Join(differ, ", "))
}

// Capabilities returns what each replica could do when it was opened.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) {
	c := b.probe.Capabilities
	c.Replicas = len(b.replicas)
	c.Parallel = len(b.replicas) * b.cfg.MaxInFlight
	return c, nil
}

// Servers returns the replicas in the order of the configuration.
func (b *Backend) Servers() []Server { return b.cfg.Servers }

// Model returns the base model's name and the path or name that the servers loaded
// it from.
func (b *Backend) Model() (name, root string) { return b.probe.Model, b.probe.Root }

// Close cancels the requests in flight and closes the servers. Loaded adapters
// stay loaded. It may be called again.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		b.goroutines.Wait()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.goroutines.Wait()
	var failed []error
	for _, r := range b.replicas {
		failed = append(failed, r.server.Close())
	}
	return errors.Join(failed...)
}
