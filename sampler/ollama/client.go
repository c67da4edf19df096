package ollama

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/sampler"
)

// client sends requests with the types of Ollama's api package. It does not use
// that package's client, which reads an incomplete body as a message of the server
// and allocates 8 MiB for every request (api/client.go, stream).
type client struct {
	web       *jsonhttp.Client
	transport *jsonhttp.Transport
}

func newClient(url string, connections int) (*client, error) {
	transport := jsonhttp.NewTransport(connections + 4)
	web, err := jsonhttp.New(jsonhttp.Config{URL: url, Server: "Ollama", Transport: transport, ErrorsInAnswers: true})
	return &client{web, transport}, err
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// hintsByMessage are remedies for messages of the server.
var hintsByMessage = []process.Hint{
	{Contains: "loras are not yet implemented",
		Remedy: "Ollama before 0.30 applies no adapter to this architecture: update it, or choose sampler.backend llamacpp"},
	{Contains: "unsupported architecture",
		Remedy: "Ollama cannot convert this adapter: the trainer must write it as GGUF"},
	{Contains: "runner process has terminated",
		Remedy: "the model or its adapter could not be loaded: the adapter belongs to another base model, or there is " +
			"not enough memory; read the reason in the server's log"},
	{Contains: "requires more system memory",
		Remedy: "not enough memory: lower sampler.max_model_len or choose a smaller model"},
	{Contains: "maximum pending requests",
		Remedy: "the server's queue is full: raise OLLAMA_MAX_QUEUE or lower rollout.concurrency"},
}

// errLost is wrapped by errors without an answer. The request may be sent again.
var errLost = errors.New("no answer of the server")

// call sends body and decodes the answer into out. Both may be nil.
func (c *client) call(ctx context.Context, method, path string, body, out any) error {
	return classify(c.web.Call(ctx, jsonhttp.Request{Method: method, Path: path, Body: body}, out))
}

// generate sends the request for a completion of so many tokens.
func (c *client) generate(ctx context.Context, path string, body any, tokens int, out any) error {
	request := jsonhttp.Request{Path: path, Body: body, MaxAnswer: sampler.MaxAnswer(tokens)}
	return classify(c.web.Call(ctx, request, out))
}

// upload sends a blob.
func (c *client) upload(ctx context.Context, path string, content io.Reader) error {
	header := map[string]string{"Content-Type": "application/octet-stream"}
	return classify(c.web.Call(ctx, jsonhttp.Request{Path: path, Body: content, Header: header}, nil))
}

// classify adds a remedy to an error. The error wraps errLost if the request may
// be sent again.
func classify(err error) error {
	var e *jsonhttp.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Redirected, e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		return fmt.Errorf("%w\n  hint: %s", err,
			e.Remedy("no setting: Ollama itself has none", "sampler.ollama.url"))
	case e.Kind == jsonhttp.Malformed && !e.Truncated:
		return fmt.Errorf("%w\n  hint: sampler.ollama.url must be Ollama's own address", err)
	case e.Status >= 300:
		if remedy := process.HintFor(e.Message, hintsByMessage); remedy != "" {
			err = fmt.Errorf("%w\n  hint: %s", err, remedy)
		}
	}
	if e.Kind != jsonhttp.TimedOut && (e.Retryable() || runnerCrashed(e)) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// runnerCrashed says whether the process with the model died (llm/server.go,
// Completion). The next request starts another one.
func runnerCrashed(e *jsonhttp.Error) bool {
	return e.Status == http.StatusInternalServerError &&
		(strings.Contains(e.Message, "unexpectedly stopped") || strings.Contains(e.Message, "while running the model"))
}

const (
	maxTries   = 6
	firstPause = 20 * time.Millisecond
)

// try calls f again after a lost answer. Calling f twice must have the effect of
// calling it once. onRetry, if not nil, is called before each retry.
func (c *client) try(ctx context.Context, f func() error, onRetry func(error)) error {
	retry := jsonhttp.Retry{
		First: firstPause, Last: 256 * firstPause, Factor: 4, Attempts: maxTries,
		Again: func(err error) bool { return errors.Is(err, errLost) },
	}
	if onRetry != nil {
		retry.Before = func(_ int, _ time.Duration, err error) { onRetry(err) }
	}
	return retry.Do(ctx, func(context.Context) error { return f() })
}
