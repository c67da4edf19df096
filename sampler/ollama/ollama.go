// Package ollama samples from an Ollama server that is already running.
//
// Ollama takes and gives text, no token ids. With a [Codec] the ids of a prompt
// are decoded, and the text is checked to be encoded as the same ids. The ids
// of the answer are those that the codec makes of its text; the trainer must
// recompute their log-probs. Without a codec the server applies the model's own
// chat template to the messages, and there are no ids.
//
// A version is a model of its own, made from the base model and the version's
// GGUF adapter. Ollama (0.17.4, server/sched.go) keeps one adapter per base
// model loaded and reloads the model for a request with another adapter.
// Requests of another version therefore wait here until those in flight have
// ended: versions take turns in batches, with one reload between them.
package ollama

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

var _ sampler.Backend = (*Backend)(nil)

// Config describes the server. Model is required.
type Config struct {
	URL   string // empty: http://127.0.0.1:11434
	Model string // the base model as `ollama list` names it; it must have no adapter
	// Alias names the versions: <Alias>:v000012. Models of these names are
	// overwritten and removed, so two runs on one server need two aliases.
	// Empty: "empo2-policy".
	Alias string

	// TemplateArgs are arguments of the model's chat template, which is used
	// without a Codec. Ollama has one: "think", a bool or "low", "medium",
	// "high". "enable_thinking" is a bool with the same meaning.
	TemplateArgs map[string]any

	NumCtx  int // tokens of one conversation; 0: the model's own, 4096 at most
	Threads int // of the server's runner; 0: the server's default
	// MaxInFlight bounds the requests sent at once; the server computes
	// OLLAMA_NUM_PARALLEL of them. 0: 16.
	MaxInFlight int

	RequestTimeout time.Duration // of one answer, without waiting for a turn; 0: 5 minutes
	PublishTimeout time.Duration // until a new version has answered; 0: 5 minutes

	// Codec is the tokenizer of the base model; nil: messages only, no ids.
	Codec Codec
	// EndToken is the control token that ends a reply. It is appended to the
	// ids of a finished reply, because the server does not send it. Empty:
	// "<|im_end|>".
	EndToken string
	// Logprobs asks for log-probs of the raw logits, for a canary. A token has
	// one if the server names exactly the text of the codec's id; else it is
	// NaN.
	Logprobs bool

	Log zerolog.Logger // the zero value is silent
}

const (
	defaultURL     = "http://127.0.0.1:11434"
	defaultContext = 4096 // the largest context that is used by default, because a context costs memory
)

func (c Config) withDefaults() Config {
	text := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	text(&c.URL, defaultURL)
	text(&c.Alias, "empo2-policy")
	text(&c.EndToken, "<|im_end|>")
	c.URL = strings.TrimRight(c.URL, "/")
	c.Alias = strings.Map(inName, c.Alias)
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 16
	}
	for _, d := range []*time.Duration{&c.RequestTimeout, &c.PublishTimeout} {
		if *d == 0 {
			*d = 5 * time.Minute
		}
	}
	return c
}

// inName replaces characters that Ollama does not allow in a model's name.
func inName(r rune) rune {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		return r
	}
	return '-'
}

func (c Config) check() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("url %q: must be http://HOST:PORT", c.URL)
	case c.Model == "":
		return errors.New("no model\n  hint: `ollama list` shows what the server has")
	case c.thinkError() != nil:
		return c.thinkError()
	case c.NumCtx < 0, c.Threads < 0, c.MaxInFlight < 1:
		return fmt.Errorf("context %d, threads %d and requests in flight %d must not be negative", c.NumCtx, c.Threads,
			c.MaxInFlight)
	}
	return nil
}

// Backend samples from one server. It is safe for concurrent use.
type Backend struct {
	cfg         Config
	client      *client
	caps        sampler.Capabilities
	turns       *admission.Queue // its classes are the models
	retokenizer *retokenizer     // nil without a codec

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc

	publishing *admission.Queue // its one place is taken while a version is published
	counters   counters

	mu       sync.Mutex
	closed   bool
	versions map[int]*version // published and not retired
}

var errClosed = errors.New("the backend is closed")

// Open probes the server and its base model. No version is published yet.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ollama: %w", err)
	}
	web, err := newClient(cfg.URL, cfg.MaxInFlight)
	if err != nil {
		return nil, fmt.Errorf("ollama: %w", err)
	}
	b := &Backend{
		cfg: cfg, client: web,
		publishing: admission.New(admission.Config{Limits: []int{1}}), versions: map[int]*version{},
	}
	b.turns = admission.New(admission.Config{Limits: []int{cfg.MaxInFlight}, OnSwitch: b.counters.swapped})
	b.alive, b.cancel = context.WithCancelCause(context.Background())
	if cfg.Codec != nil {
		b.retokenizer = &retokenizer{codec: cfg.Codec, endToken: cfg.EndToken}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.PublishTimeout, fmt.Errorf("no answer within %v", cfg.PublishTimeout))
	defer cancel()
	if err := b.probe(ctx); err != nil {
		b.client.close()
		return nil, fmt.Errorf("ollama %s: %w", cfg.URL, err)
	}
	return b, nil
}

// Capabilities are those of the server when it was opened.
func (b *Backend) Capabilities(context.Context) (sampler.Capabilities, error) { return b.caps, nil }

// Close cancels the requests in flight, removes the remaining versions and
// unloads the model. It may be called again.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	left := b.versions
	b.versions = map[int]*version{}
	b.mu.Unlock()
	b.cancel(errClosed)
	ctx, cancel := context.WithTimeoutCause(context.Background(), cleanTimeout,
		fmt.Errorf("no answer within %v", cleanTimeout))
	defer cancel()
	defer b.client.close()
	b.unload(ctx)
	var errs []error
	for _, v := range left {
		if err := b.remove(ctx, v.policy); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", v.policy.Name, err))
		}
	}
	return errors.Join(errs...)
}
