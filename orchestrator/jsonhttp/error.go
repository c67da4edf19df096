package jsonhttp

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
)

// Kind says what a caller may do about a failure.
type Kind int

const (
	// Refused: the server understood the request and will not do it.
	Refused Kind = iota
	// Busy: the server did nothing, because it is full. It may do it later.
	Busy
	// Unreached: there is no connection, and nothing was sent.
	Unreached
	// Lost: the connection broke. Nobody knows whether the server acted.
	Lost
	// TimedOut: the deadline passed, or the caller gave up, before the answer
	// came. Nobody knows whether the server acted. Err is the context's cause.
	TimedOut
	// Failed: the server failed while it acted upon the request.
	Failed
	// Malformed: the answer is not one of the protocol.
	Malformed
)

// An Error is an exchange without a good answer.
type Error struct {
	Op      string // for example "POST /v1/completions"; may be empty
	Kind    Kind
	Status  int      // of HTTP; 0: there was no answer
	Message string   // the server's text, cleaned, at most 8 KiB; ours if the server has none
	Code    string   // of an error body as OpenAI's; may be empty
	Type    string   // of an error body as OpenAI's; may be empty
	Fields  []string // of the request that are wrong, such as "body.action", if the server names them
	// After is the pause that the server asks for in Retry-After; 0: none.
	After time.Duration
	// Truncated says that a Malformed answer is empty or ends too early.
	Truncated bool
	Err       error // the cause; may be nil
}

// Error names the request, the status and the server's text, shortened.
func (e *Error) Error() string {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Status >= 300 {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))))
	}
	if e.Message != "" {
		parts = append(parts, Shorten(e.Message))
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Retryable reports whether the same request may succeed later: the server is
// busy or was not reached, or there was no whole answer. Only the caller knows
// whether the server may act upon the request twice.
func (e *Error) Retryable() bool {
	switch e.Kind {
	case Busy, Unreached, Lost, TimedOut:
		return true
	}
	return e.Truncated
}

// Uncertain reports whether nobody knows if the server acted upon the request.
func (e *Error) Uncertain() bool { return e.Kind == Lost || e.Kind == TimedOut }

// Names reports whether the server complains about a field of the body.
func (e *Error) Names(field string) bool {
	return slices.ContainsFunc(e.Fields, func(at string) bool {
		return at == field || strings.HasSuffix(at, "."+field)
	})
}

// Retryable reports whether err is an [*Error] that is retryable.
func Retryable(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Retryable()
}

// Status is the HTTP status of an answer that is not a success, 0 for other
// errors.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Status >= 300 {
		return e.Status
	}
	return 0
}

// Said is the whole text of a server that answered with an error, and the text
// of err if it is no such answer. It is for looking for words: the text of an
// [*Error] is shortened.
func Said(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Status >= 300 {
		return e.Message
	}
	return err.Error()
}

// Failure classifies an exchange that ended with err instead of an answer. ctx
// is that of the exchange. An err that is an [*Error] is returned.
func (c *Client) Failure(ctx context.Context, err error) *Error {
	e := &Error{Kind: Lost, Message: "the connection was lost", Err: c.cleanError(err)}
	var known *Error
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	var redirected *redirectError
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	switch {
	case errors.As(err, &known):
		return known
	case ctx.Err() != nil:
		e.Kind, e.Message, e.Err = TimedOut, "", context.Cause(ctx)
	case errors.As(err, &certificate):
		e.Kind, e.Message = Refused, "the server's certificate is not trusted"
	case errors.As(err, &redirected):
		e.Kind, e.Message, e.Err = Refused, c.Clean(redirected.Error()), nil
	case errors.As(err, &syntax), errors.As(err, &shape): // of a library that decodes answers by itself
		e.Kind, e.Message = Malformed, "not an answer of "+c.cfg.Server
	case errors.Is(err, http.ErrSchemeMismatch):
		e.Kind, e.Message = Malformed, "the server speaks http, not https"
	case errors.Is(err, resty.ErrResponseBodyTooLarge), errors.Is(err, errTooLong):
		e.Kind, e.Message, e.Err = Malformed, "the answer is longer than "+size(c.cfg.MaxAnswer), nil
	case errors.As(err, &dial) && (dial.Op == "dial" || dial.Op == "proxyconnect"):
		e.Kind, e.Message = Unreached, "the server cannot be reached"
	}
	return e
}

// Refusal classifies an answer that is not a success.
func (c *Client) Refusal(status int, header http.Header, body []byte) *Error {
	e := &Error{Kind: Refused, Status: status, After: retryAfter(header.Get("Retry-After"))}
	c.complaint(e, header, body)
	switch {
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		e.Kind = Busy
	case status == http.StatusBadGateway || status == http.StatusGatewayTimeout || status == http.StatusRequestTimeout:
		e.Kind = Lost
	case status >= 500:
		e.Kind = Failed
	}
	return e
}
