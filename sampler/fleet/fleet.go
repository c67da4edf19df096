// Package fleet makes one sampler.Backend of several replicas of an inference
// server that load LoRA adapters while they run.
//
// A version of the policy is an immutable directory with a name of its own. It
// is loaded on every replica before it is used. A name is never used for other
// content. A request goes to the replica with the fewest requests in flight,
// the requests of one session to the replica that holds their prefix.
//
// A replica is healthy, suspect, down or asleep. A replica that dies, hangs,
// loses its adapters or answers wrongly is down, and its requests are sent to
// another one: requests change nothing in a server. It is readmitted when every
// published version is loaded again and has answered a fixed prompt (the check)
// as the version did first.
//
// Admission: at most Config.MaxInFlight requests are in flight at a replica,
// and fewer if the server says that more than a few of its requests wait. The
// others wait here, where they can still go to another replica. The limit grows
// again while no request waits at the server.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

var (
	_ sampler.Backend = (*Backend)(nil)
	_ sampler.Sleeper = (*Backend)(nil)
)

// Config says which servers and how. Servers and Check are required.
type Config struct {
	Servers []Server // closed with the Backend, also when Open fails
	Alias   string   // adapters are named <Alias>-v000012; must differ between runs on one server; empty: "policy"
	// Section is the backend's part of the configuration, for example
	// "sampler.vllm". Hints name it.
	Section string
	// Check is the prompt whose greedy answer must stay the same for a version,
	// on every replica, also after a restart: a few tokens of ordinary text.
	Check func(ctx context.Context) ([]int32, error)
	// Tolerance is the largest difference of that answer's log-probs from the
	// trainer's, or from the first answer's if there is no trainer, in nats; 0: 0.05.
	Tolerance float64

	RequestTimeout time.Duration // of one request at one replica, without waiting for admission; 0: 5 minutes
	LoadTimeout    time.Duration // until a version is served everywhere, or a replica is readmitted; 0: 2 minutes
	HealthInterval time.Duration // between two health checks of a replica; 0: 5 seconds
	Patience       time.Duration // how long requests wait while no replica is healthy; 0: 2 minutes
	MaxInFlight    int           // requests at one replica; 0: 64

	// Sleep says that servers may sleep. A server that sleeps when it is opened,
	// as after a run that was killed, is woken. Without Sleep that is an error.
	Sleep bool

	// OnReturn, if not nil, is called with the URL of a replica that was
	// readmitted. It must not call Close.
	OnReturn func(url string)
	Log      zerolog.Logger // the zero value is silent
}

func (c Config) withDefaults() Config {
	after := func(v *time.Duration, d time.Duration) {
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
		c.MaxInFlight = 64
	}
	after(&c.RequestTimeout, 5*time.Minute)
	after(&c.LoadTimeout, 2*time.Minute)
	after(&c.HealthInterval, 5*time.Second)
	after(&c.Patience, 2*time.Minute)
	return c
}

// Backend is the pool. It is safe for concurrent use.
type Backend struct {
	cfg   Config
	probe Probe   // of the first replica; the others must be alike
	check []int32 // the prompt of the check

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc
	all    sync.WaitGroup // watchers and retirements

	queue      *admission.Queue // its places are the replicas
	publishing *admission.Queue // its one place is taken while versions or replicas are changed as a whole
	counters   counters

	mu        sync.Mutex
	closed    bool
	replicas  []*replica
	versions  map[int]*version // pending, published and retiring
	dirs      map[int]string   // every version's directory since Open
	changed   chan struct{}    // closed when a replica's state or a version changes
	noneSince time.Time        // since when no replica is healthy; zero: one is
	sleeping  bool             // from Sleep to Wake: no replica is readmitted
}

var errClosed = errors.New("the backend is closed")

// Open probes the servers and starts to watch them. All of them must be healthy
// and alike. The context bounds the start only. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	b := &Backend{
		cfg: cfg.withDefaults(), publishing: admission.New(admission.Config{Limits: []int{1}}), versions: map[int]*version{},
		dirs: map[int]string{}, changed: make(chan struct{}),
	}
	b.alive, b.cancel = context.WithCancelCause(context.Background())
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
	named := map[string]bool{}
	for _, r := range b.replicas {
		url := r.server.URL()
		if named[url] {
			return fmt.Errorf("%s is named twice\n  hint: %s.urls must name each replica once", url, b.cfg.Section)
		}
		named[url] = true
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.LoadTimeout, fmt.Errorf("not ready within %v", b.cfg.LoadTimeout))
	defer cancel()
	probes := make([]Probe, len(b.replicas))
	var group errgroup.Group
	for i, r := range b.replicas {
		group.Go(func() (err error) {
			if probes[i], err = r.probe(ctx); err != nil {
				return fmt.Errorf("probe %s: %w", r.server.URL(), err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	b.probe = probes[0]
	for i, p := range probes {
		if err := p.like(b.probe); err != nil {
			return fmt.Errorf("%s is not a replica of %s: %w", b.replicas[i].server.URL(), b.replicas[0].server.URL(), err)
		}
	}
	var err error
	if b.check, err = b.cfg.Check(ctx); err != nil {
		return err
	}
	if n := b.probe.Capabilities.ContextLength; len(b.check) == 0 || len(b.check)+checkTokens > n {
		return fmt.Errorf("a context of %d tokens is too small for the check's %d", n, len(b.check)+checkTokens)
	}
	for _, r := range b.replicas {
		b.all.Go(r.watch)
	}
	return nil
}

// like returns an error if p and q are not replicas of each other.
func (p Probe) like(q Probe) error {
	a, c := p.Capabilities, q.Capabilities
	var differ []string
	f := func(what string, is, was any) {
		if is != was {
			differ = append(differ, fmt.Sprintf("%s is %v, not %v", what, is, was))
		}
	}
	f("the model's name", p.Model, q.Model)
	f("the context", a.ContextLength, c.ContextLength)
	f("the vocabulary", a.VocabSize, c.VocabSize)
	f("the space of the log-probs", a.LogprobSpace, c.LogprobSpace)
	f("adapters", a.Adapters, c.Adapters)
	f("sleeping", p.Sleeps, q.Sleeps)
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("%s\n  hint: start all replicas with the same command", strings.Join(differ, ", "))
}

// Capabilities are those that every replica had when it was opened.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) {
	c := b.probe.Capabilities
	c.Replicas = len(b.replicas)
	c.Parallel = len(b.replicas) * b.cfg.MaxInFlight
	return c, nil
}

// Servers are the replicas, in the order of the configuration.
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
		b.all.Wait()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.all.Wait()
	var failed []error
	for _, r := range b.replicas {
		failed = append(failed, r.server.Close())
	}
	return errors.Join(failed...)
}
