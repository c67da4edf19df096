package ollama

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 20

// client speaks with the server in the types of Ollama's api package. That
// package's own client takes a body that breaks off for a message of the
// server and sets 8 MiB aside for every request (api/client.go, stream).
type client struct {
	http      *resty.Client
	transport *http.Transport
}

func newClient(url string, connections int) *client {
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		MaxIdleConns:        connections + 4,
		MaxIdleConnsPerHost: connections + 4,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true,
	}
	return &client{transport: transport, http: resty.New().SetBaseURL(url).SetTransport(transport).
		SetResponseBodyLimit(maxAnswer).SetHeader("User-Agent", "empo2").SetDisableWarn(true)}
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// apiError is an answer that says what is wrong with the request.
type apiError struct {
	Status  int
	Message string
}

func (e *apiError) Error() string {
	text := fmt.Sprintf("the server answers %d: %s", e.Status, e.Message)
	for _, h := range remedies {
		if strings.Contains(e.Message, h.said) {
			return text + "\n  hint: " + h.hint
		}
	}
	return text
}

// remedies are for what goes wrong on users' machines, by what the server says.
var remedies = []struct{ said, hint string }{
	{"loras are not yet implemented", "Ollama before 0.30 applies no adapter to this architecture: update it, or choose sampler.backend llamacpp"},
	{"unsupported architecture", "Ollama cannot convert this adapter: the trainer must write it as GGUF"},
	{"runner process has terminated", "the model or its adapter could not be loaded: an adapter of another base model, or not enough memory; the server's log says which"},
	{"requires more system memory", "not enough memory: lower sampler.ollama.context or choose a smaller model"},
	{"maximum pending requests", "the server's queue is full: raise OLLAMA_MAX_QUEUE or lower rollout.concurrency"},
}

// errLost is wrapped by errors after which a request may be sent again.
var errLost = errors.New("no answer of the server")

// call sends body (none if nil) and decodes the answer into out, unless that
// is nil.
func (c *client) call(ctx context.Context, method, path string, body, out any) error {
	request := c.http.R().SetContext(ctx)
	if body != nil {
		request.SetHeader("Content-Type", "application/json").SetBody(body)
	}
	response, err := request.Execute(method, path)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case response.IsError():
		return refusal(response)
	case out == nil:
		return nil
	}
	err = json.Unmarshal(response.Body(), out)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF), len(response.Body()) == 0, strings.Contains(err.Error(), "unexpected end"):
		return fmt.Errorf("%w: %s: the answer breaks off", errLost, path)
	}
	return fmt.Errorf("%s: not an answer of Ollama: %.80q\n  hint: sampler.ollama.url must be Ollama's own address", path, response.Body())
}

// upload sends a blob.
func (c *client) upload(ctx context.Context, path string, content io.Reader) error {
	response, err := c.http.R().SetContext(ctx).SetHeader("Content-Type", "application/octet-stream").SetBody(content).Post(path)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	case response.IsError():
		return refusal(response)
	}
	return nil
}

// refusal is the error of a status; one that may pass is also an errLost.
func refusal(r *resty.Response) error {
	var answer struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(r.Body(), &answer) != nil || answer.Error == "" {
		answer.Error = fmt.Sprintf("%.200q", r.Body())
	}
	err := &apiError{Status: r.StatusCode(), Message: answer.Error}
	switch err.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%w: %w", errLost, err)
	case http.StatusInternalServerError:
		// The runner died (llm/server.go, Completion); the next request starts another.
		if strings.Contains(err.Message, "unexpectedly stopped") || strings.Contains(err.Message, "while running the model") {
			return fmt.Errorf("%w: %w", errLost, err)
		}
	}
	return err
}

const (
	maxTries   = 6
	firstPause = 20 * time.Millisecond
)

// try repeats f, which must change nothing or the same again, after a lost
// answer. again, if not nil, is told of every repeat.
func (c *client) try(ctx context.Context, f func() error, again func(error)) error {
	for tries := 1; ; tries++ {
		err := f()
		if err == nil || !errors.Is(err, errLost) || tries == maxTries {
			return err
		}
		if again != nil {
			again(err)
		}
		pause := time.NewTimer(firstPause << (2 * (tries - 1)))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		}
	}
}
