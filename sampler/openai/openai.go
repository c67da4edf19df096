// Package openai samples text from any server with OpenAI's chat completions:
// no ids, no log-probs, no adapters. It is for runs that do not change the
// weights: evaluation, adaptation and Reflexion.
package openai

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
	"github.com/empo2/empo2/sampler/chat"
)

var _ sampler.Backend = (*Backend)(nil)

// Config describes the server. URL and Model are required.
type Config struct {
	// URL is the base that OpenAI's own clients take, for example
	// "https://api.openai.com/v1"; without a path /v1 is added.
	URL    string
	Model  string
	APIKey string // sent as bearer token, never logged; empty: none
	// SystemRole is how the system message is sent: "system", "developer", or
	// "user" for models whose template knows no other, which puts its text
	// before the first message of the user. Empty: "system".
	SystemRole string

	// TemplateArgs are arguments of the server's chat template, for example
	// enable_thinking. Nil: none are sent.
	TemplateArgs map[string]any

	// RequestTimeout bounds a request with its repeats, waiting for a place
	// not counted; 0: 5 minutes.
	RequestTimeout time.Duration
	MaxInFlight    int            // requests sent at once; 0: 16
	Log            zerolog.Logger // the zero value is silent
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

// base checks the configuration and returns the address of the interface.
func (c Config) base() (string, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("the URL must be http://HOST or https://HOST, with the path of the interface if that is not " +
			"/v1\n  hint: set sampler.openai.url")
	case c.Model == "":
		return "", errors.New("no model\n  hint: set sampler.served_model_name to a name that GET /v1/models lists")
	case c.MaxInFlight < 1:
		return "", fmt.Errorf("%d requests in flight", c.MaxInFlight)
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
	newer  atomic.Bool // the server demands max_completion_tokens

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	now    *admission.Gate // nil while version 0 is not published
	stats  Stats
}

var errClosed = errors.New("the backend is closed")

// Open asks the server for its models, if it lists them. No version is
// published yet.
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
	b.client.again = b.repeated
	b.alive, b.cancel = context.WithCancelCause(context.Background())
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.RequestTimeout, fmt.Errorf("no answer within %v", cfg.RequestTimeout))
	defer cancel()
	served, err := b.client.models(ctx)
	if err == nil {
		err = served.check(cfg.Model)
	}
	if err != nil {
		b.client.close()
		return nil, fmt.Errorf("openai: %w", err)
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
		"ids_in":         "chat completions take messages; " + other,
		"ids_out":        "chat completions give text; to train, " + other + "; this one can evaluate, adapt and reflect",
		"logprobs":       "chat completions give no log-probs that belong to ids; " + other,
		"adapters":       "this interface cannot load an adapter; " + other + ", or ollama",
		"context_length": "the server tells the context of its model; choose another model or shorter episodes",
	}
}

// Capabilities are what the interface can do, and the model's context where
// the server tells it.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) { return b.caps, nil }

func (b *Backend) policy() sampler.Policy { return sampler.Policy{Name: b.cfg.Model} }

// Publish checks that the model answers. Only version 0, the model as it is,
// can be published.
func (b *Backend) Publish(ctx context.Context, a sampler.Adapter) (sampler.Policy, error) {
	if a.Version != 0 {
		return sampler.Policy{}, fmt.Errorf("publish version %d: an OpenAI-compatible server cannot be given new weights\n"+
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
	closed, done := b.closed, b.now != nil
	b.mu.Unlock()
	switch {
	case closed:
		return errClosed
	case done:
		return nil
	}
	hello := chat.Message{Role: chat.RoleUser, Spans: []chat.Span{{Kind: chat.StateSpan, Text: "Say yes."}}}
	if _, err := b.ask(ctx, sampler.Request{Messages: []chat.Message{hello}, MaxTokens: probeTokens}); err != nil {
		if errors.Is(err, sampler.ErrCapability) {
			return err
		}
		return b.explain(ctx, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case b.now == nil:
		b.now = admission.NewGate()
	}
	return nil
}

// Retire refuses new requests and waits for the last one. The server is not
// changed.
func (b *Backend) Retire(ctx context.Context, p sampler.Policy) error {
	b.mu.Lock()
	gate := b.now
	if gate == nil || p != b.policy() {
		b.mu.Unlock()
		return nil
	}
	b.now = nil
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
