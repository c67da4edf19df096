package jsonhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind classifies failures by what the caller may do about them.
type Kind int

const (
	// Refused means that the server understood the request and refused it.
	Refused Kind = iota
	// Busy means that the server is full and did not process the request. A retry may succeed.
	Busy
	// Unreached means that no connection was made and nothing was sent.
	Unreached
	// Lost means that the connection broke. The server may have processed the request.
	Lost
	// TimedOut means that the deadline passed or the caller cancelled before the answer came. The server may have
	// processed the request. Err is the context's cause.
	TimedOut
	// Failed means that the server failed while it processed the request.
	Failed
	// Malformed means that the answer does not follow the protocol.
	Malformed
)

// An Error describes an exchange that failed.
type Error struct {
	Op      string // for example "POST /v1/completions"; may be empty
	Kind    Kind
	Status  int      // HTTP status; 0: there was no answer
	Message string   // the server's text, cleaned and cut after 8 KiB; or a text of this package if there is none
	Code    string   // "code" of an error body in OpenAI's format; may be empty
	Type    string   // "type" of an error body in OpenAI's format; may be empty
	Fields  []string // wrong fields of the request, such as "body.action", if the server names them
	// After is the pause that the server requests with Retry-After; 0: none.
	After time.Duration
	// Truncated says that a Malformed answer is empty or incomplete.
	Truncated bool
	// Redirected says that the server names another address, which is not followed.
	Redirected bool
	Err        error // the cause; may be nil
}

// Remedy returns what an operator can do about a server that refuses the key or is
// another one than expected; empty: nothing is known. key and address name the places
// where the server's key and URL are set.
func (e *Error) Remedy(key, address string) string {
	switch {
	case e.Redirected:
		return "put the address to which the server redirects into " + address
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		return "the key is missing or wrong; it is taken from " + key
	case e.Kind == Malformed && !e.Truncated:
		return "check that " + address + " is the address of the server itself, not of a page or a proxy"
	}
	return ""
}

// Error returns the request, the status and the server's text. A text that does not explain a refusal is shortened.
func (e *Error) Error() string {
	var parts []string
	if e.Op != "" {
		parts = append(parts, e.Op)
	}
	if e.Status >= 300 {
		answer := fmt.Sprintf("the server answers %d %s", e.Status, http.StatusText(e.Status))
		parts = append(parts, strings.TrimSpace(answer))
	}
	switch {
	case e.Message == "":
	case e.Status/100 == 4: // why the server refuses a request is quoted in full
		parts = append(parts, e.Message)
	default:
		parts = append(parts, Shorten(e.Message))
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Retryable reports whether the same request may succeed later: the server is busy or was not reached, or the answer is
// incomplete. If Uncertain is true, retry only requests that the server may process twice.
func (e *Error) Retryable() bool {
	switch e.Kind {
	case Busy, Unreached, Lost, TimedOut:
		return true
	}
	return e.Truncated
}

// Uncertain reports whether the server may have processed the request.
func (e *Error) Uncertain() bool { return e.Kind == Lost || e.Kind == TimedOut }

// Names reports whether the server names a field of the request as wrong.
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

// Status returns the HTTP status of an error answer, and 0 for other errors.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Status >= 300 {
		return e.Status
	}
	return 0
}

// ServerText returns the server's complete text if err is an error answer, and the text of err otherwise. Use it to
// search for words, because the text of an [*Error] is shortened.
func ServerText(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Status >= 300 {
		return e.Message
	}
	return err.Error()
}

// Failure classifies an exchange that ended with err instead of an answer. ctx is the context of the exchange. If err
// is an [*Error], Failure returns it.
func (c *Client) Failure(ctx context.Context, err error) *Error {
	e := &Error{Kind: Lost, Message: "the connection was lost", Err: c.cleanError(err)}
	var classified *Error
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	var redirected *redirectError
	var long *tooLongError
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &classified):
		return classified
	case ctx.Err() != nil:
		e.Kind, e.Message, e.Err = TimedOut, "", context.Cause(ctx)
	case errors.As(err, &certificate):
		e.Kind, e.Message = Refused, "the server's certificate is not trusted"
	case errors.As(err, &redirected):
		e.Kind, e.Message, e.Err, e.Redirected = Refused, c.Clean(redirected.Error()), nil, true
	case errors.As(err, &syntax), errors.As(err, &wrongType): // from a library that decodes answers itself
		e.Kind, e.Message = Malformed, "not an answer of "+c.cfg.Server
	case errors.Is(err, http.ErrSchemeMismatch):
		e.Kind, e.Message = Malformed, "the server speaks http, not https"
	case errors.As(err, &long):
		return tooLong(long.bound)
	case errors.As(err, &dial) && (dial.Op == "dial" || dial.Op == "proxyconnect"):
		e.Kind, e.Message = Unreached, "the server cannot be reached"
	}
	return e
}

// Refusal classifies an answer whose status is not a success.
func (c *Client) Refusal(status int, header http.Header, body []byte) *Error {
	e := &Error{Kind: Refused, Status: status, After: retryAfter(header.Get("Retry-After"))}
	c.readErrorBody(e, header, body)
	e.classify()
	return e
}

// classify chooses the kind of an answer whose status is not a success.
func (e *Error) classify() {
	switch status := e.Status; {
	case status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable:
		e.Kind = Busy
	case status == http.StatusBadGateway || status == http.StatusGatewayTimeout || status == http.StatusRequestTimeout:
		e.Kind = Lost
	case status >= 500:
		e.Kind = Failed
	}
}

// embedded returns the {"error": …} in an answer whose status is a success; nil if there is none. Its code replaces the
// status if it is one.
func (c *Client) embedded(header http.Header, body []byte) *Error {
	var parsed errorBody
	if !c.cfg.ErrorsInAnswers || !bytes.Contains(body, []byte(`"error"`)) || json.Unmarshal(body, &parsed) != nil ||
		!present(parsed.Error) {
		return nil
	}
	e := &Error{Kind: Refused, Status: http.StatusOK}
	c.readErrorBody(e, header, body)
	if code, err := strconv.Atoi(e.Code); err == nil && code >= 400 && code < 600 {
		e.Status = code
		e.classify()
	} else {
		e.Message = "the answer is an error: " + e.Message
	}
	return e
}
