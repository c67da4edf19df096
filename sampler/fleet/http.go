package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

// HTTP calls one inference server. It keeps as many idle connections as there
// may be requests in flight.
type HTTP struct {
	url       string
	web       *jsonhttp.Client
	transport *jsonhttp.Transport
	err       error // the URL is malformed
}

// NewHTTP makes a client for the server at url, for example
// http://127.0.0.1:8000. Without a key, requests have no authorization. A
// malformed URL is an error of the first call.
func NewHTTP(url, key string, connections int) *HTTP {
	h := &HTTP{url: strings.TrimRight(safetext.URL(url), "/"), transport: jsonhttp.NewTransport(connections)}
	h.web, h.err = jsonhttp.New(jsonhttp.Config{
		URL: url, Server: "an inference server", Key: key, Transport: h.transport, ErrorsInAnswers: true,
	})
	return h
}

// URL returns the URL of the server without user, password and a slash at its end.
func (h *HTTP) URL() string { return h.url }

// Dials returns how many connections were opened.
func (h *HTTP) Dials() int64 { return h.transport.Dials() }

// Close closes idle connections.
func (h *HTTP) Close() { h.transport.CloseIdleConnections() }

// Clean replaces the key and what controls a terminal in a server's text, for
// errors.
func (h *HTTP) Clean(text string) string { return h.web.Clean(text) }

// Call sends body with POST, or a GET request if body is nil. It decodes the
// answer as JSON. A *string receives the text of the answer, and nil ignores it.
// The error wraps [ErrLost] if the answer is missing or incomplete, or if the
// server is busy or unavailable.
func (h *HTTP) Call(ctx context.Context, path string, body, out any) error {
	if h.err != nil {
		return h.err
	}
	err := h.web.Call(ctx, jsonhttp.Request{Path: path, Body: body}, out)
	var e *jsonhttp.Error
	if errors.As(err, &e) && e.Retryable() && e.Kind != jsonhttp.TimedOut {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if e != nil {
		if remedy := e.Remedy("EMPO2_SERVER_KEY", "the server's urls"); remedy != "" {
			return fmt.Errorf("%w\n  hint: %s", err, remedy)
		}
	}
	return err
}
