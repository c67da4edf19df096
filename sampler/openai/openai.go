// Package openai is the backend for any server with OpenAI's chat completions. It
// has text only: no token ids, no log-probs, no adapters. It serves runs that do
// not change the weights: evaluation, adaptation and Reflexion. Start with [Open].
package openai

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

var _ sampler.Backend = (*Backend)(nil)

// Config describes the server. URL and Model are required.
type Config struct {
	// URL is the base URL, as for OpenAI's own clients, for example
	// "https://api.openai.com/v1". Without a path /v1 is added.
	URL    string
	Model  string
	APIKey string // sent as bearer token, never logged; empty: none
	// SystemRole is the role of the system message: "system", "developer", or
	// "user" for models without such a role. "user" puts its text before the first
	// message of the user. Empty: "system".
	SystemRole string

	// TemplateArgs are arguments of the server's chat template, for example
	// enable_thinking. Nil: none are sent.
	TemplateArgs map[string]any

	// RequestTimeout is the deadline of a request with its retries, without waiting
	// for a place; 0: 5 minutes.
	RequestTimeout time.Duration
	MaxInFlight    int // requests in flight; 0: 16
	// OnRefusal is called once for each parameter that the server refuses and that is
	// left out from then on. Nil: not called.
	OnRefusal func(what string)
	Log       zerolog.Logger // the zero value is silent
}

func (c Config) withDefaults() Config {
	if c.SystemRole == "" {
		c.SystemRole = chat.RoleSystem
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = 5 * time.Minute
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 16
	}
	return c
}

// base checks the configuration and returns the base URL of the API.
func (c Config) base() (string, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("the URL must be http://HOST or https://HOST, with a path if the API is not at /v1\n" +
			"  hint: set sampler.openai.url")
	case c.Model == "":
		return "", errors.New("no model\n  hint: set sampler.served_model_name to a name in the list of GET /v1/models")
	case c.MaxInFlight < 1:
		return "", fmt.Errorf("%d requests in flight: must be positive", c.MaxInFlight)
	case c.SystemRole != chat.RoleSystem && c.SystemRole != developer && c.SystemRole != chat.RoleUser:
		return "", fmt.Errorf("system role %q: must be system, developer or user", c.SystemRole)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if u.Path == "" {
		u.Path = "/v1"
	}
	return u.String(), nil
}

// Backend samples from one server. It is safe for concurrent use.
type Backend struct {
	cfg    Config
	client *client
	caps   sampler.Capabilities
	places *admission.Queue
	listed modelList // what the server has; empty: it does not say

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	gate   *admission.Gate // nil while version 0 is not published
	stats  Stats
}

var errClosed = errors.New("the backend is closed")

// Open checks that the server answers, and warns if it lists its models without this one. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	cfg = cfg.withDefaults()
	base, err := cfg.base()
	if err != nil {
		return nil, fmt.Errorf("openai: %w", err)
	}
	web, err := newClient(base, cfg)
	if err != nil {
		return nil, fmt.Errorf("openai: %w", err)
	}
	b := &Backend{cfg: cfg, client: web, places: admission.New(admission.Config{Limits: []int{cfg.MaxInFlight}})}
	b.client.onRetry = b.countRetry
	b.alive, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.RequestTimeout, fmt.Errorf("no answer within %v", cfg.RequestTimeout))
	defer cancel()
	end := watchdog.Begin(ctx, "server", "probe "+safetext.URL(base), cfg.RequestTimeout)
	served, err := b.client.models(ctx)
	end()
	if err != nil {
		b.client.close()
		return nil, fmt.Errorf("openai: %w", err)
	}
	b.listed = served
	if !served.has(cfg.Model) {
		cfg.Log.Warn().Msgf("openai: the server does not list the model %q; it is tried all the same", cfg.Model)
	}
	b.caps = sampler.Capabilities{
		Server: "openai", Version: "unknown", Adapters: "none", ContextLength: served.context(cfg.Model),
		Parallel: cfg.MaxInFlight, Replicas: 1, StopStrings: true, Hints: hints(),
	}
	return b, nil
}

func hints() map[string]string {
	const other = "choose sampler.backend vllm, sglang or llamacpp"
	return map[string]string{
		"ids_in":         "chat completions accept messages; " + other,
		"ids_out":        "chat completions return text; to train, " + other + "; this one can evaluate, adapt and reflect",
		"logprobs":       "chat completions return no log-probs of ids; " + other,
		"adapters":       "this API cannot load adapters; " + other + ", or ollama",
		"context_length": "the server sets the context of its model; choose another model or shorter episodes",
	}
}

// Capabilities returns what the API can do, and the model's context if the server
// lists it.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) { return b.caps, nil }

func (b *Backend) policy() sampler.Policy { return sampler.Policy{Name: b.cfg.Model} }

// Publish checks that the model answers. Only version 0, the base model, can be
// published.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	if a.Version != 0 {
		return sampler.Policy{}, fmt.Errorf("publish version %d: an OpenAI-compatible server cannot load new weights\n"+
			"  hint: %s", a.Version, hints()["adapters"])
	}
	p := b.policy()
	ctx, end := sampler.Within(ctx, b.alive)
	defer end()
	if err := b.publish(ctx); err != nil {
		return sampler.Policy{}, fmt.Errorf("publish %s: %w", p.Name, err)
	}
	return p, nil
}

func (b *Backend) publish(ctx context.Context) error {
	b.mu.Lock()
	closed, done := b.closed, b.gate != nil
	b.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case done:
		return nil
	}
	probe := chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: "Say yes."}}}
	// Some models have no other temperature than 1.
	request := sampler.Request{Messages: []chat.Message{probe}, MaxTokens: probeTokens, Temperature: 1}
	if _, err := b.send(ctx, request); err != nil {
		if errors.Is(err, sampler.ErrCapability) {
			return err
		}
		return b.withModels(ctx, err)
	}
	if err := b.checkAnswering(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case b.gate == nil:
		b.gate = admission.NewGate()
	}
	return nil
}

// Retire refuses new requests and waits for those in flight. It does not change
// the server.
func (b *Backend) Retire(ctx context.Context, p sampler.Policy) error {
	b.mu.Lock()
	gate := b.gate
	if gate == nil || p != b.policy() {
		b.mu.Unlock()
		return nil
	}
	b.gate = nil
	b.mu.Unlock()
	gate.Close()
	if err := gate.Drain(ctx); err != nil {
		return fmt.Errorf("retire %s: requests in flight: %w", p.Name, err)
	}
	return nil
}

// Close cancels the requests in flight. It may be called again.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.client.close()
	return nil
}
