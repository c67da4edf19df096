// Package exchange sends JSON requests to an environment server. It extends package
// jsonhttp for environments: the patience with a full server, the requests that may be
// repeated, and streams of events.
package exchange

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// maxAnswer is the largest size of an answer in bytes.
const maxAnswer = 64 << 20

// Server has the address of an environment server and its deadlines.
type Server struct {
	URL   string // http or https, with or without a path; required
	Token string // sent as a bearer token; empty: none
	// Timeout is the deadline of one request. Default 60 s.
	Timeout time.Duration
	// Patience is the deadline of all attempts of one call, including pauses,
	// while the server is full or cannot be reached. Default 5 minutes.
	Patience time.Duration
	// Dial replaces the dialer. Nil: TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  zerolog.Logger
}

// A Client sends requests to one server. It is safe for concurrent use.
type Client struct {
	*jsonhttp.Client
	server Server
}

// New checks s and creates a client. It does not connect.
func New(s Server) (*Client, error) {
	if s.Timeout < 0 || s.Patience < 0 {
		return nil, fmt.Errorf("timeout %v and patience %v must not be negative", s.Timeout, s.Patience)
	}
	if s.Timeout == 0 {
		s.Timeout = time.Minute
	}
	if s.Patience == 0 {
		s.Patience = 5 * time.Minute
	}
	// Each episode keeps a connection open, as it sends a request for each step.
	c, err := jsonhttp.New(jsonhttp.Config{
		URL: s.URL, Server: "an environment server", Key: s.Token, Timeout: s.Timeout, MaxAnswer: maxAnswer,
		Transport: jsonhttp.NewTransportOver(s.Dial, 64),
	})
	if err != nil {
		return nil, err
	}
	return &Client{Client: c, server: s}, nil
}

// Timeout is the deadline of one request.
func (c *Client) Timeout() time.Duration { return c.server.Timeout }

// A Request is a request to the server.
type Request struct {
	Path string // below the server's URL, with a slash in front
	Body any    // sent as JSON in a POST; nil: the request is a GET
	// Header has additional header fields. May be nil.
	Header map[string]string
	// Repeatable is true if it does no harm that the server performs the request
	// twice. Then it is repeated if it is unknown whether it arrived.
	Repeatable bool
	// Prompt is true for the first request. If the server cannot be reached, it
	// is not repeated, because the address is probably wrong.
	Prompt bool
}

func (r Request) http() jsonhttp.Request {
	return jsonhttp.Request{Path: r.Path, Body: r.Body, Header: r.Header}
}

// Do sends a request and returns the JSON of a 2xx answer. If the server is busy or
// unreachable, Do repeats the request with growing pauses until the patience ends. Any
// other failure is a [*jsonhttp.Error].
func (c *Client) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	var answer json.RawMessage
	err := c.Persist(ctx, r.http().Op(), r.May, func(ctx context.Context) (err error) {
		answer, err = c.Try(ctx, r)
		return err
	})
	return answer, err
}

// May reports whether the request may be repeated after e.
func (r Request) May(e *jsonhttp.Error) bool {
	switch {
	case e.Kind == jsonhttp.Busy:
		return true
	case e.Kind == jsonhttp.Unreached:
		return !r.Prompt
	}
	return e.Uncertain() && r.Repeatable && !r.Prompt
}

// Try sends a request once, for callers of [Client.Persist].
// The key is not in the answer, even if the server repeats it.
func (c *Client) Try(ctx context.Context, r Request) (answer json.RawMessage, err error) {
	err = c.Call(ctx, r.http(), &answer)
	return c.Redact(bytes.TrimSpace(answer)), err
}

// RefusesAction reports whether the answer to a step refuses the action: a
// 400, 413 or 422 that does not mention id, the other field of the request.
// The message is for the policy.
func RefusesAction(err error, id string) (message string, refused bool) {
	var e *jsonhttp.Error
	if !errors.As(err, &e) || e.Names(id) {
		return "", false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return jsonhttp.Shorten(e.Message), true
	}
	return "", false
}
