// Package ollama is the backend for a running Ollama server. Start with [Open];
// publish.go creates models, sample.go samples and retokenize.go converts between
// ids and text.
//
// Ollama's API has text and no token ids. With a [Codec] the backend decodes the
// ids of a prompt and checks that the server will read the same control tokens.
// The ids of an answer are the codec's encoding of its text. The trainer must
// recompute their log-probs. Without a codec the server applies the model's chat
// template to the messages, and there are no ids.
//
// A version is a model of its own, created from the base model and the version's
// GGUF adapter. Ollama (0.17.4, server/sched.go) has one adapter per base model
// loaded and reloads the model for another adapter. Requests of different
// versions are therefore never in flight together: versions take turns, with one
// reload between them.
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

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/admission"
)

var _ sampler.Backend = (*Backend)(nil)

// Config describes the server. Model is required.
type Config struct {
	URL   string // empty: http://127.0.0.1:11434
	Model string // the base model's name in `ollama list`; it must have no adapter
	// Alias is the prefix of the versions' models, such as <Alias>:v000012. The
	// backend overwrites and removes them, so it must differ between runs on one
	// server. Empty: "empo2-policy".
	Alias string

	// TemplateArgs are arguments of the model's chat template, which is used
	// without a Codec. Ollama has one, "think": a bool or "low", "medium", "high".
	// "enable_thinking" is a bool with the same meaning.
	TemplateArgs map[string]any

	NumCtx  int // tokens of one conversation; 0: the model's, up to 4096
	Threads int // of the server; 0: the server's default
	// MaxInFlight is the largest number of requests in flight. The server computes
	// OLLAMA_NUM_PARALLEL of them at the same time. 0: 16.
	MaxInFlight int

	RequestTimeout time.Duration // of one answer, without waiting for a turn; 0: 5 minutes
	PublishTimeout time.Duration // of Publish; 0: 5 minutes

	// Codec is the tokenizer of the base model; nil: messages only, no ids.
	Codec Codec
	// EndToken is the control token that ends a reply. The backend appends it to
	// the ids of a finished reply, because the server does not send it. Empty:
	// "<|im_end|>".
	EndToken string
	// Logprobs requests log-probs of the raw logits, for a canary. The log-prob of a
	// token is NaN if the server's token has another text than the codec's id.
	Logprobs bool

	Log zerolog.Logger // the zero value is silent
}

const (
	defaultURL     = "http://127.0.0.1:11434"
	defaultContext = 4096 // the largest default, because a context uses memory
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
	c.Alias = strings.Map(nameRune, c.Alias)
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

// nameRune replaces a character that Ollama does not allow in a model's name.
func nameRune(r rune) rune {
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
	content     string           // see Content
	turns       *admission.Queue // its classes are the names of the models
	retokenizer *retokenizer     // nil without a codec

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc

	publishing *admission.Queue // has one place: one Publish at a time
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
	b.alive, b.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	if cfg.Codec != nil {
		b.retokenizer = &retokenizer{codec: cfg.Codec, endToken: cfg.EndToken}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.PublishTimeout, fmt.Errorf("no answer within %v", cfg.PublishTimeout))
	defer cancel()
	defer watchdog.Begin(ctx, "server", "probe "+safetext.URL(cfg.URL), cfg.PublishTimeout)()
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
	remaining := b.versions
	b.versions = map[int]*version{}
	b.mu.Unlock()
	b.cancel(errClosed)
	ctx, cancel := context.WithTimeoutCause(context.Background(), cleanupTimeout,
		fmt.Errorf("no answer within %v", cleanupTimeout))
	defer cancel()
	defer b.client.close()
	b.unload(ctx)
	var errs []error
	for _, v := range remaining {
		if err := b.remove(ctx, v.policy); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", v.policy.Name, err))
		}
	}
	return errors.Join(errs...)
}
