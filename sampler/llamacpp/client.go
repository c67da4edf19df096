package llamacpp

import (
	"context"
	"errors"
	"fmt"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// client is the HTTP client of one server.
type client struct {
	web *jsonhttp.Client
	err error // the address is malformed
}

func newClient(at endpoint, connections int) *client {
	web, err := jsonhttp.New(jsonhttp.Config{
		URL: at.Address, Server: "llama-server", Key: at.Key, Transport: jsonhttp.NewTransport(connections),
	})
	return &client{web, err}
}

func (c *client) close() {
	if c.err == nil {
		c.web.Close()
	}
}

// errLost is wrapped by errors without an answer. The request may be sent again.
var errLost = errors.New("connection to llama-server lost")

// call sends body, or a GET request if body is nil, and decodes the answer.
func (c *client) call(ctx context.Context, path string, body, out any) error {
	if c.err != nil {
		return c.err
	}
	return explained(c.web.Call(ctx, jsonhttp.Request{Path: path, Body: body}, out))
}

// explained wraps errLost around errors without an answer, and adds a hint to others.
func explained(err error) error {
	var e *jsonhttp.Error
	if errors.As(err, &e) && e.Retryable() && e.Kind != jsonhttp.TimedOut {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if e != nil && e.Remedy("", "") != "" {
		return fmt.Errorf("%w\n  hint: another program answers at its address, or its key was changed", err)
	}
	return err
}

// health returns nil if the server says that it is healthy.
func (c *client) health(ctx context.Context) error {
	var answer struct{}
	return c.call(ctx, "/health", nil, &answer)
}

// tokenize encodes text and adds no tokens. If special is true, control tokens in
// the text become their ids.
func (c *client) tokenize(ctx context.Context, text string, special bool) ([]int32, error) {
	answer := struct {
		Tokens []int32 `json:"tokens"`
	}{}
	body := map[string]any{"content": text, "add_special": false, "parse_special": special}
	err := c.call(ctx, "/tokenize", body, &answer)
	return answer.Tokens, err
}

// detokenize decodes ids.
func (c *client) detokenize(ctx context.Context, ids []int32) (string, error) {
	answer := struct {
		Content *string `json:"content"`
	}{}
	err := c.call(ctx, "/detokenize", map[string]any{"tokens": ids}, &answer)
	if err == nil && answer.Content == nil {
		err = errors.New("the answer has no content")
	}
	if err != nil {
		return "", err
	}
	return *answer.Content, nil
}
