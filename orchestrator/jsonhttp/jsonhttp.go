// Package jsonhttp exchanges JSON with servers over HTTP. All clients of this project use it.
//
// Start with [Client]. [Client.Call] sends a [Request] with a deadline, bounds the size of the answer and decodes it.
// If the exchange fails, it returns an [*Error], whose [Kind] says what the caller may do. [Retry] repeats a call with
// growing pauses. Server texts in errors cannot control a terminal. The client's key is in neither errors nor answers.
package jsonhttp

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/go-resty/resty/v2"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// Config describes a server. Only URL is required.
type Config struct {
	URL    string // http or https, with or without a path
	Server string // name of the server in errors, for example "Ollama"; default "the server"
	// Key is sent as a bearer token and never appears in an error; empty: none.
	Key string
	// KeyHeaders are additional headers that carry the key, for example X-API-Key.
	KeyHeaders []string
	// Timeout bounds one exchange; 0: only the caller's context bounds it.
	Timeout time.Duration
	// ErrorsInAnswers takes an {"error": …} in an answer whose status is a success for a failure. Some servers and
	// proxies report errors so.
	ErrorsInAnswers bool
	// MaxAnswer bounds the body of an answer in bytes, if the request has no bound of its own; default 64 MiB.
	MaxAnswer int64
	// Transport sends the requests; default NewTransport(64). Clients may share one.
	Transport http.RoundTripper
}

// A Client exchanges JSON with one server. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	resty   *resty.Client
	secrets safetext.Redactor // the key, and the user and the password of the URL
}

// New returns a client, or an error if the configuration is invalid. It does not connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the URL of a server\n  hint: http://host:port or https://host",
			safetext.URL(cfg.URL))
	}
	if strings.ContainsAny(cfg.URL, "?#") { // the paths of requests are appended
		return nil, fmt.Errorf("the URL of %s has a query or a fragment\n  hint: leave out what begins with ? or #",
			cmp.Or(cfg.Server, "the server"))
	}
	if strings.ContainsFunc(cfg.Key, unicode.IsControl) { // no header can hold it
		return nil, fmt.Errorf("the key of %s has a line break or another control character\n"+
			"  hint: remove it from the variable that holds the key", cmp.Or(cfg.Server, "the server"))
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("timeout %v is negative", cfg.Timeout)
	}
	if cfg.Server == "" {
		cfg.Server = "the server"
	}
	if cfg.MaxAnswer == 0 {
		cfg.MaxAnswer = 64 << 20
	}
	if cfg.Transport == nil {
		cfg.Transport = NewTransport(64)
	}
	c := &Client{cfg: cfg, base: base,
		secrets: safetext.NewRedactor(append(safetext.UserSecrets(base), cfg.Key)...)}
	c.resty = resty.NewWithClient(&http.Client{Transport: cfg.Transport}).
		SetBaseURL(base.String()).
		SetHeader("Accept", "application/json").
		SetHeader("User-Agent", userAgent).
		SetResponseBodyLimit(int(cfg.MaxAnswer)).
		SetRedirectPolicy(resty.RedirectPolicyFunc(redirect)).
		SetDisableWarn(true)
	if cfg.Key != "" {
		c.resty.SetAuthToken(cfg.Key)
		for _, name := range cfg.KeyHeaders {
			c.resty.SetHeader(name, cfg.Key)
		}
	}
	return c, nil
}

const userAgent = "empo2"

// URL returns the server's URL without user, password and a slash at the end, for errors, logs and events.
func (c *Client) URL() string { return safetext.URL(c.base.String()) }

// Endpoint returns the full URL of a path, user and password included. It must not be shown.
func (c *Client) Endpoint(path string) string { return c.base.String() + path }

// Close closes idle connections. The client remains usable.
func (c *Client) Close() {
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Header returns the headers of every request, for protocols that begin with an HTTP request, such as WebSocket.
func (c *Client) Header() http.Header {
	h := http.Header{"User-Agent": {userAgent}}
	if c.cfg.Key != "" {
		h.Set("Authorization", "Bearer "+c.cfg.Key)
		for _, name := range c.cfg.KeyHeaders {
			h.Set(name, c.cfg.Key)
		}
	}
	return h
}

// HTTP returns an HTTP client with the same connections and the same bound on answers, for libraries that make their
// own requests. [Client.Failure] and [Client.Refusal] classify their failures.
func (c *Client) HTTP() *http.Client {
	return &http.Client{Transport: bounded{c.cfg.Transport, c.cfg.MaxAnswer}, CheckRedirect: redirect}
}

// A Request is one exchange.
type Request struct {
	Method string // default: GET without a body, else POST
	Path   string // below the server's URL, with a slash in front
	// Body is sent as JSON; nil: no body. A []byte or an io.Reader is sent unchanged. For an io.Reader, Header must have
	// the Content-Type.
	Body   any
	Header map[string]string // additional headers; may be nil
	// MaxAnswer bounds the body of the answer in bytes; 0: the bound of a [Bounded] body, else the client's.
	MaxAnswer int64
}

// A Bounded body of a request knows the bound of its answer in bytes.
type Bounded interface{ MaxAnswer() int64 }

// Op returns the name of the request in errors, for example "POST /v1/completions".
func (r Request) Op() string {
	path, _, _ := strings.Cut(r.Path, "?")
	return r.method() + " " + path
}

func (r Request) method() string {
	switch {
	case r.Method != "":
		return r.Method
	case r.Body == nil:
		return http.MethodGet
	}
	return http.MethodPost
}

// Call makes one exchange and decodes the JSON answer into out. If out is a *string, it gets the answer unchanged; nil
// ignores the answer. If the exchange fails, the error is an [*Error].
func (c *Client) Call(ctx context.Context, r Request, out any) error {
	body, header, err := c.do(ctx, r)
	if err != nil {
		return err
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *string:
		*out = string(body)
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return c.malformed(r, header, body, err)
	}
	return nil
}

// do makes one exchange and returns the body of a 2xx answer.
func (c *Client) do(ctx context.Context, r Request) ([]byte, http.Header, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	bound := c.bound(r)
	answer, err := request.SetResponseBodyLimit(int(bound)).Send()
	switch {
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		return nil, nil, c.withOp(r, tooLong(bound))
	case err != nil:
		return nil, nil, c.withOp(r, c.Failure(ctx, err))
	case !answer.IsSuccess():
		return nil, nil, c.withOp(r, c.Refusal(answer.StatusCode(), answer.Header(), answer.Body()))
	}
	if e := c.embedded(answer.Header(), answer.Body()); e != nil {
		return nil, nil, c.withOp(r, e)
	}
	return c.Redact(answer.Body()), answer.Header(), nil
}

// bound returns the largest body of an answer to r in bytes. The body of an error may always have 64 KiB.
func (c *Client) bound(r Request) int64 {
	if body, ok := r.Body.(Bounded); ok && r.MaxAnswer == 0 {
		r.MaxAnswer = body.MaxAnswer()
	}
	if r.MaxAnswer > 0 {
		return min(max(r.MaxAnswer, 64<<10), c.cfg.MaxAnswer)
	}
	return c.cfg.MaxAnswer
}

// tooLong is the error of an answer beyond its bound.
func tooLong(bound int64) *Error {
	return &Error{Kind: Malformed, Message: "the answer is longer than " + size(bound)}
}

// Stream makes one exchange and calls read with the body of a 2xx answer. Timeout and MaxAnswer bound the whole stream.
// An error of read that is not an [*Error] counts as a failure of the connection.
func (c *Client) Stream(ctx context.Context, r Request, read func(http.Header, io.Reader) error) error {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return err
	}
	answer, err := request.SetDoNotParseResponse(true).Send()
	if err != nil {
		return c.withOp(r, c.Failure(ctx, err))
	}
	stream := limit(answer.RawBody(), c.bound(r))
	defer stream.Close()
	if !answer.IsSuccess() {
		body, err := io.ReadAll(io.LimitReader(stream, 1<<16))
		if err != nil {
			return c.withOp(r, c.Failure(ctx, err))
		}
		return c.withOp(r, c.Refusal(answer.StatusCode(), answer.Header(), body))
	}
	if err := read(answer.Header(), stream); err != nil {
		return c.withOp(r, c.Failure(ctx, err))
	}
	return nil
}

// withTimeout adds the client's timeout to a context.
func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.cfg.Timeout == 0 {
		return ctx, func() {}
	}
	late := fmt.Errorf("no answer from %s within %v", c.URL(), c.cfg.Timeout)
	return context.WithTimeoutCause(ctx, c.cfg.Timeout, late)
}

// request encodes r.
func (c *Client) request(ctx context.Context, r Request) (*resty.Request, error) {
	request := c.resty.R().SetContext(ctx)
	request.Method, request.URL = r.method(), r.Path
	if r.Body != nil {
		request.SetHeader("Content-Type", "application/json")
	}
	switch body := r.Body.(type) {
	case nil:
	case []byte, io.Reader:
		request.SetBody(body)
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s: encode: %w", r.Op(), err)
		}
		request.SetBody(encoded)
	}
	return request.SetHeaders(r.Header), nil
}

// withOp adds the request's name to an error that has none.
func (c *Client) withOp(r Request, e *Error) *Error {
	if e.Op == "" {
		e.Op = r.Op()
	}
	return e
}

// malformed returns the error of a 2xx answer that does not decode.
func (c *Client) malformed(r Request, header http.Header, body []byte, err error) *Error {
	e := &Error{Op: r.Op(), Kind: Malformed, Status: http.StatusOK}
	prefix := "not an answer of " + c.cfg.Server
	var syntax *json.SyntaxError
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		e.Truncated, e.Message = true, prefix+": it is empty"
	case errors.As(err, &syntax) && int(syntax.Offset) >= len(body) && strings.Contains(err.Error(), "unexpected end"):
		e.Truncated, e.Message = true, "the answer breaks off: "+c.quote(body)
	case looksLikeHTML(header, body):
		e.Message = prefix + ": it is HTML, not JSON: " + c.quote(body)
	case syntax != nil:
		e.Message = prefix + ": it is not JSON: " + c.quote(body)
	default:
		e.Message, e.Err = prefix+": "+c.quote(body), c.cleanError(safetext.JSONError(err))
	}
	return e
}
