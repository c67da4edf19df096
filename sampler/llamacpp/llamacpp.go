// Package llamacpp is the backend that starts llama-server processes. Start with
// [Open]; supervise.go keeps the processes of a version running, engine.go starts
// and checks a process, and sample.go samples.
//
// Every version of the policy has its own process, so that versions cannot share a
// prompt cache or an adapter scale. The process of a new version is started and
// checked while the old one still serves. A process that dies or hangs is
// replaced, and its requests are sent again. With several replicas, a version has a
// process on each device, and the others serve its requests meanwhile.
//
// The Python package xllamacpp contains the server. A short script (serve.py)
// starts it and stops it when this process ends. A llama-server binary can be used
// instead, for example one that was built for a GPU.
package llamacpp

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

var (
	_ sampler.Backend    = (*Backend)(nil)
	_ chat.Tokenizer     = (*Backend)(nil)
	_ chat.ControlTokens = (*Backend)(nil)
)

// Config describes the processes. BaseGGUF is required, and Python or Binary.
type Config struct {
	Python string // interpreter that has xllamacpp
	// Binary is a llama-server to start. Empty: xllamacpp's.
	Binary   string
	Args     []string // additional arguments of Binary, for example "-ngl", "99"
	Inherit  []string // environment variables of the processes in addition to the usual ones: NAME or NAME=VALUE
	BaseGGUF string   // base model, see [EnsureBaseGGUF]
	Alias    string   // prefix of policy names such as <Alias>-v000012; empty: "policy"

	// TemplateArgs are arguments of the chat template in the model's file, for
	// example enable_thinking. Nil: none.
	TemplateArgs map[string]any

	// Replicas are the processes that serve a version together; 0: 1. Each has Slots.
	Replicas int
	// Devices has CUDA_VISIBLE_DEVICES for each replica, for example "0" and "1". Empty:
	// the replicas inherit it.
	Devices []string

	ContextPerSlot int // tokens of one conversation; 0: the context that the model was trained with
	Slots          int // requests in computation; 0: 16; best: one per concurrent episode
	Threads        int // of generation; 0: 1, because small models gain nothing from more
	BatchThreads   int // of prompts; 0: 1
	// ExactLogprobs computes attention in float32 without flash attention. Log-probs
	// then differ from torch's by rounding: by 1e-5 nats with the demonstration's model
	// and by 2.5e-4 with SmolLM2-135M, instead of 1e-2.
	ExactLogprobs bool
	// NoPromptCache computes every prompt from its beginning. With one slot the
	// answer to a request then does not depend on the requests before it.
	NoPromptCache bool

	StartTimeout   time.Duration // until a process is ready and checked; 0: 2 minutes
	RequestTimeout time.Duration // of one request, without waiting for a slot; 0: 5 minutes
	RenderTimeout  time.Duration // of one conversation in the chat template, which may not end; 0: a minute
	HealthInterval time.Duration // between two health checks of a process; 0: 10 seconds
	Grace          time.Duration // for a process to end before it is killed; 0: 3 seconds

	// Budget limits how often the process of one version is replaced before the
	// version is given up. The zero value: never.
	Budget process.Budget
	// OnRestart, if not nil, is called before the process of a version is replaced,
	// with the version's name and the reason. It must not call Retire or Close.
	OnRestart func(name string, why error)

	Log zerolog.Logger // the zero value is silent
}

func (c Config) withDefaults() Config {
	setInt := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	setDuration := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	if c.Alias == "" {
		c.Alias = "policy"
	}
	setInt(&c.Slots, 16)
	setInt(&c.Replicas, 1)
	setInt(&c.Threads, 1)
	setInt(&c.BatchThreads, 1)
	setDuration(&c.StartTimeout, 2*time.Minute)
	setDuration(&c.RequestTimeout, 5*time.Minute)
	setDuration(&c.RenderTimeout, time.Minute)
	setDuration(&c.HealthInterval, 10*time.Second)
	setDuration(&c.Grace, 3*time.Second)
	return c
}

func (c Config) check() error {
	switch {
	case c.Slots < 1, c.Threads < 1, c.BatchThreads < 1, c.ContextPerSlot < 0:
		return fmt.Errorf("slots %d, threads %d, batch threads %d and context %d must be positive",
			c.Slots, c.Threads, c.BatchThreads, c.ContextPerSlot)
	case c.Replicas < 1, len(c.Devices) > 0 && len(c.Devices) != c.Replicas:
		return fmt.Errorf("%d replicas and %d devices: there must be one device for each replica, or none",
			c.Replicas, len(c.Devices))
	case c.Python == "" && c.Binary == "" || c.BaseGGUF == "":
		return errors.New("a base model and a Python interpreter or a llama-server are required")
	case c.Binary == "" && len(c.Args) > 0:
		return errors.New("arguments without a llama-server binary\n  hint: set sampler.llamacpp.binary")
	}
	return nil
}

// Backend runs the processes. It is safe for concurrent use.
type Backend struct {
	cfg   Config
	model gguf // the base model's header
	info  Info // more about the same file
	start func(ctx context.Context, l launch) (server, error)

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc
	caps   sampler.Capabilities // as probed from the first process

	publishing *admission.Queue // has one place: one Publish at a time
	counters   counters

	mu          sync.Mutex
	closed      bool
	base        *version         // started by Open; version 0 may be unpublished
	versions    map[int]*version // published and not retired
	supervisors sync.WaitGroup
}

var errClosed = errors.New("the backend is closed")

// Open starts a process with the base model and probes what it can do. The
// context bounds the start only. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	b, err := open(ctx, cfg, startProcess)
	if err != nil {
		return nil, fmt.Errorf("llamacpp: %w", err)
	}
	return b, nil
}

func open(ctx context.Context, cfg Config, start func(context.Context, launch) (server, error)) (*Backend, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	var err error
	if cfg.BaseGGUF, err = filepath.Abs(cfg.BaseGGUF); err != nil {
		return nil, err
	}
	b := &Backend{cfg: cfg, start: start, publishing: admission.New(admission.Config{Limits: []int{1}}),
		versions: map[int]*version{}}
	if b.model, err = readBase(cfg.BaseGGUF); err != nil {
		return nil, err
	}
	if b.info, err = Inspect(cfg.BaseGGUF); err != nil {
		return nil, err
	}
	if b.cfg.ContextPerSlot == 0 {
		b.cfg.ContextPerSlot = b.model.Context
	}
	b.alive, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if b.base, err = b.startVersion(ctx, b.policy(0), "", sampler.Adapter{}); err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", cfg.BaseGGUF, err), b.Close())
	}
	return b, nil
}

func (b *Backend) policy(version int) sampler.Policy {
	return sampler.Policy{Version: version, Name: fmt.Sprintf("%s-v%06d", b.cfg.Alias, version)}
}

// Capabilities returns those of all replicas together, by the process that Open
// started first. All processes must have the same.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) {
	c := b.caps
	c.Replicas, c.Parallel = b.cfg.Replicas, b.cfg.Replicas*c.Parallel
	return c, nil
}

// Publish starts a process for the adapter's GGUF file, checks it and makes the
// version usable. Version 0 is always the base model.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	p := b.policy(a.Version)
	if err := b.publish(ctx, p, a); err != nil {
		return sampler.Policy{}, fmt.Errorf("publish %s: %w", p.Name, err)
	}
	return p, nil
}

func (b *Backend) publish(ctx context.Context, p sampler.Policy, a sampler.Adapter) error {
	turn, err := b.publishing.Acquire(ctx, admission.Request{})
	if err != nil {
		return err
	}
	defer turn.Release()
	file, err := b.adapterFile(a)
	if err != nil {
		return err
	}
	if done, err := b.published(p, file); done || err != nil {
		return err
	}
	started := time.Now()
	v, err := b.startVersion(ctx, p, file, a)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return errClosed // Close stops it
	}
	if p.Version == 0 {
		b.base = v
	}
	b.versions[p.Version] = v
	took := time.Since(started).Round(time.Millisecond)
	b.cfg.Log.Info().Int("version", p.Version).Stringer("took", took).Msg("policy published")
	return nil
}

// adapterFile returns the checked adapter of a version, empty for the base model.
func (b *Backend) adapterFile(a sampler.Adapter) (string, error) {
	switch {
	case a.Version == 0:
		return "", nil
	case a.Version < 0:
		return "", fmt.Errorf("version %d is negative", a.Version)
	case a.GGUF == "":
		return "", errors.New("the adapter has no GGUF file\n  hint: the trainer must write adapters as GGUF")
	}
	file, err := filepath.Abs(a.GGUF)
	if err != nil {
		return "", err
	}
	return file, checkAdapter(file, b.model)
}

// published says whether p is already served. Version 0 uses the process that Open
// started.
func (b *Backend) published(p sampler.Policy, file string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false, errClosed
	}
	v := b.versions[p.Version]
	if v == nil && p.Version == 0 {
		v = b.base
	}
	if v == nil || !v.usable() {
		if v != nil {
			v.gate.Close()
		}
		return false, nil
	}
	if v.adapter != file {
		return false, fmt.Errorf("it is already served from %s, not from %s", v.adapter, file)
	}
	b.versions[p.Version] = v
	return true, nil
}

// Retire refuses new requests for p, waits for those in flight and stops the
// process. If ctx ends first, the process is stopped later.
func (b *Backend) Retire(ctx context.Context, p sampler.Policy) error {
	b.mu.Lock()
	v := b.versions[p.Version]
	if v == nil || v.policy != p {
		b.mu.Unlock()
		return nil
	}
	delete(b.versions, p.Version)
	b.mu.Unlock()
	v.gate.Close()
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("retire %s: requests in flight: %w", p.Name, context.Cause(ctx))
	}
}

// Close cancels the requests in flight and stops every process. It may be
// called again.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.supervisors.Wait()
	return nil
}
