// Package exchange makes single JSON exchanges with an environment server. It
// adds to package jsonhttp what environments have in common: how long a server
// is waited for, which requests are safe to repeat, and streams of events.
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

// maxAnswer bounds the body of one answer in bytes.
const maxAnswer = 64 << 20

// Server says where an environment server is and how long it is waited for.
type Server struct {
	URL   string // http or https, with or without a path; required
	Token string // sent as a bearer token; empty: none
	// Timeout bounds one exchange; default 60 s.
	Timeout time.Duration
	// Patience bounds all the attempts of one call together, pauses included,
	// while the server is full or cannot be reached; default 5 minutes.
	Patience time.Duration
	// Dial replaces the dialer of the operating system; nil: TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  zerolog.Logger
}

// A Client exchanges JSON with one server. It is safe for concurrent use.
type Client struct {
	*jsonhttp.Client
	server Server
}

// New checks s and prepares a client; it does not connect.
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
	// A connection per episode stays open, as steps follow each other closely.
	c, err := jsonhttp.New(jsonhttp.Config{
		URL: s.URL, Server: "an environment server", Key: s.Token, Timeout: s.Timeout, MaxAnswer: maxAnswer,
		Transport: jsonhttp.NewTransportOver(s.Dial, 64),
	})
	if err != nil {
		return nil, err
	}
	return &Client{Client: c, server: s}, nil
}

// Timeout bounds one exchange.
func (c *Client) Timeout() time.Duration { return c.server.Timeout }

// A Request is one exchange.
type Request struct {
	Path string // below the server's URL, with a slash in front
	Body any    // posted as JSON; nil: the request is a GET
	// Header is sent beside what every request carries; may be nil.
	Header map[string]string
	// Repeatable says that the server may act upon the request twice, so that
	// it is sent again where nobody knows whether it arrived.
	Repeatable bool
	// Prompt makes an unreachable server an error at once. It is for the first
	// exchange, when a wrong address is likelier than a restart.
	Prompt bool
}

func (r Request) http() jsonhttp.Request {
	return jsonhttp.Request{Path: r.Path, Body: r.Body, Header: r.Header}
}

// Do makes an exchange and returns the JSON of a 2xx answer. A busy server is
// waited for and an unreachable one dialled again, with growing pauses and as
// long as the patience lasts; every other failure is a [*jsonhttp.Error].
func (c *Client) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	var answer json.RawMessage
	err := c.Persist(ctx, r.http().Op(), r.May, func(ctx context.Context) (err error) {
		answer, err = c.Try(ctx, r)
		return err
	})
	return answer, err
}

// May reports whether the request may be sent again after e.
func (r Request) May(e *jsonhttp.Error) bool {
	switch {
	case e.Kind == jsonhttp.Busy:
		return true
	case e.Kind == jsonhttp.Unreached:
		return !r.Prompt
	}
	return e.Uncertain() && r.Repeatable && !r.Prompt
}

// Try makes an exchange once, for callers that [Client.Persist] by themselves.
// The key is not in the answer, even if the server repeats it.
func (c *Client) Try(ctx context.Context, r Request) (answer json.RawMessage, err error) {
	err = c.Call(ctx, r.http(), &answer)
	return c.Redact(bytes.TrimSpace(answer)), err
}

// RefusesAction reports whether a step was answered with a complaint about its
// action: a 400, 413 or 422 that does not name id, the request's other field.
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
