package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// HTTP calls one inference server. Its connections are kept for as many
// requests as are in flight, so that none is opened twice under load.
type HTTP struct {
	url       string
	web       *jsonhttp.Client
	transport *jsonhttp.Transport
	err       error // the URL is malformed
}

// NewHTTP makes a client for the server at url, for example
// http://127.0.0.1:8000. An empty key sends none. A malformed URL is an error of
// the first call.
func NewHTTP(url, key string, connections int) *HTTP {
	h := &HTTP{url: strings.TrimRight(url, "/"), transport: jsonhttp.NewTransport(connections)}
	h.web, h.err = jsonhttp.New(jsonhttp.Config{
		URL: url, Server: "an inference server", Key: key, Transport: h.transport,
	})
	return h
}

// URL is the server's, without a slash at its end.
func (h *HTTP) URL() string { return h.url }

// Dials is how many connections were opened so far.
func (h *HTTP) Dials() int64 { return h.transport.Dials() }

// Close lets go of idle connections.
func (h *HTTP) Close() { h.transport.CloseIdleConnections() }

// Clean prepares a server's text for errors: without the key and without
// control characters.
func (h *HTTP) Clean(text string) string { return h.web.Clean(text) }

// Call posts body (gets if it is nil) and decodes the answer: as JSON, or as
// it is into a *string; nil ignores it. It wraps [ErrLost] if there was no
// whole answer, or one that says that the server is busy or gone.
func (h *HTTP) Call(ctx context.Context, path string, body, out any) error {
	if h.err != nil {
		return h.err
	}
	err := h.web.Call(ctx, jsonhttp.Request{Path: path, Body: body}, out)
	var e *jsonhttp.Error
	if errors.As(err, &e) && e.Retryable() && e.Kind != jsonhttp.TimedOut {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	return err
}
