package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-resty/resty/v2"
)

const (
	// maxAnswer bounds an answer, in bytes; a token with its log-prob needs
	// some 100.
	maxAnswer = 64 << 20
	// idleConnection is shorter than uvicorn's own 5 seconds, after which it
	// closes a connection that we may be about to use.
	idleConnection = 3 * time.Second
)

// HTTP calls one inference server. Its connections are kept for as many
// requests as are in flight, so that none is opened twice under load.
type HTTP struct {
	url       string
	http      *resty.Client
	transport *http.Transport
	dials     atomic.Int64
}

// NewHTTP makes a client for the server at url, for example
// http://127.0.0.1:8000. An empty key sends none.
func NewHTTP(url, key string, connections int) *HTTP {
	h := &HTTP{}
	dialer := &net.Dialer{Timeout: 5 * time.Second}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, // which leaves the loopback alone
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			h.dials.Add(1)
			return dialer.DialContext(ctx, network, address)
		},
		TLSHandshakeTimeout: 5 * time.Second,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     idleConnection,
		DisableCompression:  true,
	}
	h.url, h.transport = strings.TrimRight(url, "/"), transport
	h.http = resty.New().SetBaseURL(h.url).SetTransport(transport).SetResponseBodyLimit(maxAnswer)
	if key != "" {
		h.http.SetHeader("Authorization", "Bearer "+key)
	}
	return h
}

// URL is the server's, without a slash at its end.
func (h *HTTP) URL() string { return h.url }

// Dials is how many connections were opened so far.
func (h *HTTP) Dials() int64 { return h.dials.Load() }

// Close lets go of idle connections.
func (h *HTTP) Close() { h.transport.CloseIdleConnections() }

// A StatusError is an answer that is not a success.
type StatusError struct {
	Status  int
	Message string // the server's, or the beginning of what it sent
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answers %d: %s", e.Status, e.Message)
}

// Refused is the status of an answer that is not a success, 0 for other errors.
func Refused(err error) int {
	var e *StatusError
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// Call posts body (gets if it is nil) and decodes the answer: as JSON, or as
// it is into a *string; nil ignores it. It wraps [ErrLost] if there was no
// whole answer, or one that says that the server is busy or gone.
func (h *HTTP) Call(ctx context.Context, path string, body, out any) error {
	method, request := http.MethodGet, h.http.R().SetContext(ctx)
	if body != nil {
		method = http.MethodPost
		request.SetBody(body)
	}
	response, err := request.Execute(method, path)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		return fmt.Errorf("%s: %w", path, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if response.IsError() {
		return refusal(response)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *string:
		*out = response.String()
		return nil
	}
	if err := json.Unmarshal(response.Body(), out); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
		return fmt.Errorf("%s: not the answer of an inference server, %.80q: %w", path, response.Body(), err)
	}
	return nil
}

// refusal reads the forms of errors that servers have: {"error":{"message"}},
// {"error":"…"}, {"detail":"…"}, {"message":"…"} and {"error_message":"…"}.
func refusal(r *resty.Response) error {
	var said struct {
		Error        json.RawMessage `json:"error"`
		Detail       json.RawMessage `json:"detail"`
		Message      string          `json:"message"`
		ErrorMessage string          `json:"error_message"`
	}
	e := &StatusError{Status: r.StatusCode(), Message: fmt.Sprintf("%.200q", r.Body())}
	if json.Unmarshal(r.Body(), &said) == nil {
		var inner struct {
			Message string `json:"message"`
		}
		var text string
		switch {
		case json.Unmarshal(said.Error, &inner) == nil && inner.Message != "":
			e.Message = inner.Message
		case json.Unmarshal(said.Error, &text) == nil && text != "":
			e.Message = text
		case said.ErrorMessage != "":
			e.Message = said.ErrorMessage
		case said.Message != "":
			e.Message = said.Message
		case len(bytes.TrimSpace(said.Detail)) > 0:
			e.Message = string(said.Detail)
		}
	}
	switch e.Status {
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", ErrLost, e)
	}
	return e
}
