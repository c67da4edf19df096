// Package jsonhttp exchanges JSON with servers over HTTP. Every client of this
// project is built on it.
//
// [Client] makes one exchange under a deadline and bounds the answer. An
// exchange that fails is an [*Error], whose [Kind] says what the caller may do.
// [Retry] repeats a call with growing pauses. Server texts in errors are free
// of control characters and of the client's key.
//
// The package imports nothing of this project, so every package may use it.
package jsonhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
)

// Config describes a server. Only URL is required.
type Config struct {
	URL    string // http or https, with or without a path
	Server string // what errors call the server, for example "Ollama"; default "the server"
	// Key is sent as a bearer token and never appears in an error; empty: none.
	Key string
	// KeyHeaders are further headers that carry the key, for example X-API-Key.
	KeyHeaders []string
	// Timeout bounds one exchange; 0: only the caller's context does.
	Timeout time.Duration
	// MaxAnswer bounds the body of an answer in bytes; default 64 MiB.
	MaxAnswer int64
	// Transport carries the requests; default: NewTransport(64). Clients may
	// share one.
	Transport http.RoundTripper
}

// A Client exchanges JSON with one server. It is safe for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	resty   *resty.Client
	secrets [][]byte // the key and the URL's password, if they are long enough to be found
}

// New checks the configuration. It does not connect.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the URL of a server\n  hint: http://host:port or https://host", cfg.URL)
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
	c := &Client{cfg: cfg, base: base, secrets: secrets(cfg.Key, base)}
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

// URL is the server's address, without a slash at its end.
func (c *Client) URL() string { return c.base.String() }

// Close closes idle connections. The client may still be used.
func (c *Client) Close() {
	if t, ok := c.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Header is what every request carries, for protocols that begin with an HTTP
// request.
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

// HTTP is a client over the same connections and with the same bound of
// answers, for libraries that make their own requests. [Client.Failure] and
// [Client.Refusal] classify their failures.
func (c *Client) HTTP() *http.Client {
	return &http.Client{Transport: bounded{c.cfg.Transport, c.cfg.MaxAnswer}, CheckRedirect: redirect}
}

// A Request is one exchange.
type Request struct {
	Method string // default: GET without a body, else POST
	Path   string // below the server's URL, with a slash in front
	// Body is sent as JSON; nil: no body. []byte is sent as it is, and so is an
	// io.Reader, whose Content-Type the header must name.
	Body   any
	Header map[string]string // beside what every request carries; may be nil
}

// Op names the request in errors, for example "POST /v1/completions".
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

// Call makes one exchange and decodes the answer into out: as JSON, or as it is
// into a *string; nil ignores it. A failure is an [*Error].
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
	ctx, cancel := c.within(ctx)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	answer, err := request.Send()
	switch {
	case err != nil:
		return nil, nil, c.named(r, c.Failure(ctx, err))
	case !answer.IsSuccess():
		return nil, nil, c.named(r, c.Refusal(answer.StatusCode(), answer.Header(), answer.Body()))
	}
	return answer.Body(), answer.Header(), nil
}

// Stream makes one exchange and hands the body of a 2xx answer to read. The
// client's time-out bounds the whole stream, and so does MaxAnswer. An error of
// read that is not an [*Error] counts as a failure of the connection.
func (c *Client) Stream(ctx context.Context, r Request, read func(http.Header, io.Reader) error) error {
	ctx, cancel := c.within(ctx)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return err
	}
	answer, err := request.SetDoNotParseResponse(true).Send()
	if err != nil {
		return c.named(r, c.Failure(ctx, err))
	}
	stream := limit(answer.RawBody(), c.cfg.MaxAnswer)
	defer stream.Close()
	if !answer.IsSuccess() {
		body, err := io.ReadAll(io.LimitReader(stream, 1<<16))
		if err != nil {
			return c.named(r, c.Failure(ctx, err))
		}
		return c.named(r, c.Refusal(answer.StatusCode(), answer.Header(), body))
	}
	if err := read(answer.Header(), stream); err != nil {
		return c.named(r, c.Failure(ctx, err))
	}
	return nil
}

func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.cfg.Timeout == 0 {
		return ctx, func() {}
	}
	late := fmt.Errorf("no answer from %s within %v", c.base.Redacted(), c.cfg.Timeout)
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

// named puts the request's name into an error.
func (c *Client) named(r Request, e *Error) *Error {
	if e.Op == "" {
		e.Op = r.Op()
	}
	return e
}

// malformed explains why a 2xx answer is not what the caller wants.
func (c *Client) malformed(r Request, header http.Header, body []byte, err error) *Error {
	e := &Error{Op: r.Op(), Kind: Malformed, Status: http.StatusOK}
	what := "not an answer of " + c.cfg.Server
	var syntax *json.SyntaxError
	switch {
	case len(bytes.TrimSpace(body)) == 0:
		e.Truncated, e.Message = true, what+": it is empty"
	case errors.As(err, &syntax) && int(syntax.Offset) >= len(body) && strings.Contains(err.Error(), "unexpected end"):
		e.Truncated, e.Message = true, "the answer breaks off: "+c.quote(body)
	case looksLikeHTML(header, body):
		e.Message = what + ": it is HTML, not JSON: " + c.quote(body)
	case syntax != nil:
		e.Message = what + ": it is not JSON: " + c.quote(body)
	default:
		e.Message, e.Err = what+": "+c.quote(body), c.cleanError(err)
	}
	return e
}
