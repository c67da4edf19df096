// Package ollama samples from an Ollama server that runs already.
//
// Ollama speaks text: it takes no token ids and gives none. With a [Codec] the
// ids of a prompt are decoded, the text is proved to be read back as the same
// ids, and the ids of the answer are what the codec makes of its text; their
// log-probs must be recomputed by the trainer. Without one the messages go
// through the model's own chat template and there are no ids at all.
//
// A version is a model of its own, made from the base model and the version's
// GGUF adapter. Ollama (0.17.4, server/sched.go) keeps one adapter per base
// model loaded and reloads the model for a request of another: requests of
// another version wait here until those in flight have ended, so that versions
// take turns in batches instead of reloading for every request.
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
)

var _ sampler.Backend = (*Backend)(nil)

// Config says which server and how to ask it. Model is required.
type Config struct {
	URL   string // empty: http://127.0.0.1:11434
	Model string // the base model as `ollama list` names it; it must have no adapter
	// Alias names the versions: <Alias>:v000012. Models of these names are
	// overwritten and removed, so two runs on one server need two aliases.
	// Empty: "empo2-policy".
	Alias string

	NumCtx  int // tokens of one conversation; 0: the model's own, 4096 at most
	Threads int // of the server's runner; 0: the server's choice
	// MaxInFlight bounds the requests sent at once; the server computes
	// OLLAMA_NUM_PARALLEL of them. 0: 16.
	MaxInFlight int

	RequestTimeout time.Duration // of one answer, waiting for a turn not counted; 0: 5 minutes
	PublishTimeout time.Duration // until a new version has answered; 0: 5 minutes

	// Codec is the tokenizer of the base model; nil: messages only, no ids.
	Codec Codec
	// EndToken is the control token that ends what the policy writes; it is
	// appended to the ids of a finished answer, as the server does not send it.
	// Empty: "<|im_end|>".
	EndToken string
	// Logprobs fills in the log-prob of a token where the server names exactly
	// the text of the codec's id, for a canary; they are of the raw logits.
	// Otherwise all log-probs are NaN.
	Logprobs bool

	Log zerolog.Logger // the zero value is silent
}

const (
	defaultURL     = "http://127.0.0.1:11434"
	defaultContext = 4096 // the most that is taken without being asked for, as a context costs memory
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

// inName keeps what Ollama allows in a model's name.
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
	case c.NumCtx < 0, c.Threads < 0, c.MaxInFlight < 1:
		return fmt.Errorf("context %d, threads %d and requests in flight %d must not be negative", c.NumCtx, c.Threads, c.MaxInFlight)
	}
	return nil
}

// Backend speaks with one server. It is safe for concurrent use.
type Backend struct {
	cfg    Config
	client *client
	caps   sampler.Capabilities
	turns  *turns
	spell  *speller // nil without a codec

	alive  context.Context // ends with Close
	cancel context.CancelCauseFunc

	publishing chan struct{} // holds one token while a version is published
	counters   counters

	mu       sync.Mutex
	closed   bool
	versions map[int]*version // published and not retired
}

var errClosed = errors.New("the backend is closed")

// Open looks at the server and its base model. Nothing is published yet.
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
		publishing: make(chan struct{}, 1), versions: map[int]*version{},
	}
	b.turns = newTurns(cfg.MaxInFlight, b.counters.swapped)
	b.alive, b.cancel = context.WithCancelCause(context.Background())
	if cfg.Codec != nil {
		b.spell = &speller{codec: cfg.Codec, endToken: cfg.EndToken}
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

// Close cancels what is in flight, removes the versions that are still there
// and lets the server unload the model. It may be called again.
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
	ctx, cancel := context.WithTimeoutCause(context.Background(), cleanTimeout, fmt.Errorf("no answer within %v", cleanTimeout))
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

// within ends ctx also when the backend is closed.
func (b *Backend) within(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(b.alive, func() { cancel(context.Cause(b.alive)) })
	return ctx, func() { stop(); cancel(nil) }
}
