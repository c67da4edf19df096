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
)

// client speaks with the server in the types of Ollama's api package. That
// package's own client takes a body that breaks off for a message of the
// server and sets 8 MiB aside for every request (api/client.go, stream).
type client struct {
	web       *jsonhttp.Client
	transport *jsonhttp.Transport
}

func newClient(url string, connections int) (*client, error) {
	transport := jsonhttp.NewTransport(connections + 4)
	web, err := jsonhttp.New(jsonhttp.Config{URL: url, Server: "Ollama", Transport: transport})
	return &client{web, transport}, err
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// remedies are for what goes wrong on users' machines, by what the server says.
var remedies = []struct{ said, hint string }{
	{"loras are not yet implemented",
		"Ollama before 0.30 applies no adapter to this architecture: update it, or choose sampler.backend llamacpp"},
	{"unsupported architecture", "Ollama cannot convert this adapter: the trainer must write it as GGUF"},
	{"runner process has terminated",
		"the model or its adapter could not be loaded: an adapter of another base model, or not enough memory; the " +
			"server's log says which"},
	{"requires more system memory", "not enough memory: lower sampler.max_model_len or choose a smaller model"},
	{"maximum pending requests", "the server's queue is full: raise OLLAMA_MAX_QUEUE or lower rollout.concurrency"},
}

// errLost is wrapped by errors after which a request may be sent again.
var errLost = errors.New("no answer of the server")

// call sends body (none if nil) and decodes the answer into out, unless that
// is nil.
func (c *client) call(ctx context.Context, method, path string, body, out any) error {
	return explained(c.web.Call(ctx, jsonhttp.Request{Method: method, Path: path, Body: body}, out))
}

// upload sends a blob.
func (c *client) upload(ctx context.Context, path string, content io.Reader) error {
	header := map[string]string{"Content-Type": "application/octet-stream"}
	return explained(c.web.Call(ctx, jsonhttp.Request{Path: path, Body: content, Header: header}, nil))
}

// explained adds to an error what may be done about it. One that may pass is
// also an errLost.
func explained(err error) error {
	var e *jsonhttp.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Kind == jsonhttp.Malformed && !e.Truncated:
		return fmt.Errorf("%w\n  hint: sampler.ollama.url must be Ollama's own address", err)
	case e.Status >= 300:
		err = withRemedy(err, e.Message)
	}
	if e.Kind != jsonhttp.TimedOut && (e.Retryable() || crashed(e)) {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

func withRemedy(err error, said string) error {
	for _, h := range remedies {
		if strings.Contains(said, h.said) {
			return fmt.Errorf("%w\n  hint: %s", err, h.hint)
		}
	}
	return err
}

// crashed: the runner died (llm/server.go, Completion); the next request starts
// another.
func crashed(e *jsonhttp.Error) bool {
	return e.Status == http.StatusInternalServerError &&
		(strings.Contains(e.Message, "unexpectedly stopped") || strings.Contains(e.Message, "while running the model"))
}

const (
	maxTries   = 6
	firstPause = 20 * time.Millisecond
)

// try repeats f, which must change nothing or the same again, after a lost
// answer. again, if not nil, is called before each repeat.
func (c *client) try(ctx context.Context, f func() error, again func(error)) error {
	retry := jsonhttp.Retry{
		First: firstPause, Last: 256 * firstPause, Factor: 4, Attempts: maxTries,
		Again: func(err error) bool { return errors.Is(err, errLost) },
	}
	if again != nil {
		retry.Before = func(_ int, _ time.Duration, err error) { again(err) }
	}
	return retry.Do(ctx, func(context.Context) error { return f() })
}
