// Package exchange makes single JSON exchanges with an environment server: each
// under a deadline, repeated only where that is safe, and with failures sorted
// by what may be done about them.
package exchange

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
	"github.com/rs/zerolog"
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
	server    Server
	base      *url.URL
	transport *http.Transport
	http      *resty.Client
}

// New checks s and prepares a client; it does not connect.
func New(s Server) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(s.URL, "/"))
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("url %q is no address of a server (hint: http://host:port)", s.URL)
	}
	if s.Timeout < 0 || s.Patience < 0 {
		return nil, fmt.Errorf("timeout %v and patience %v must not be negative", s.Timeout, s.Patience)
	}
	if s.Timeout == 0 {
		s.Timeout = time.Minute
	}
	if s.Patience == 0 {
		s.Patience = 5 * time.Minute
	}
	c := &Client{server: s, base: base, transport: newTransport(s)}
	c.http = resty.NewWithClient(&http.Client{Transport: c.transport}).
		SetBaseURL(base.String()).
		SetHeader("Content-Type", "application/json").
		SetHeader("Accept", "application/json").
		SetHeader("User-Agent", "empo2").
		SetResponseBodyLimit(maxAnswer).
		SetDisableWarn(true)
	if s.Token != "" {
		c.http.SetAuthToken(s.Token)
	}
	return c, nil
}

// newTransport keeps a connection per episode open, as steps follow each other
// closely.
func newTransport(s Server) *http.Transport {
	if s.Dial == nil {
		s.Dial = (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         s.Dial,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConns:        64,
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     90 * time.Second,
	}
}

// URL is the server's address, without a slash at its end.
func (c *Client) URL() string { return c.base.String() }

// Timeout bounds one exchange.
func (c *Client) Timeout() time.Duration { return c.server.Timeout }

// Close releases the connections. No call may be under way.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Transport is for protocols that begin with an HTTP request.
func (c *Client) Transport() *http.Transport { return c.transport }

// Header is what every request carries.
func (c *Client) Header() http.Header {
	h := http.Header{"User-Agent": {"empo2"}}
	if c.server.Token != "" {
		h.Set("Authorization", "Bearer "+c.server.Token)
	}
	return h
}

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

// Do makes an exchange and returns the JSON of a 2xx answer. A busy server is
// waited for and an unreachable one dialled again, with growing pauses and as
// long as the patience lasts; every other failure is returned as a [*Failure].
func (c *Client) Do(ctx context.Context, r Request) (json.RawMessage, error) {
	var answer json.RawMessage
	err := c.Persist(ctx, r.op(), r.May, func(ctx context.Context) (err error) {
		answer, err = c.Try(ctx, r)
		return err
	})
	return answer, err
}

func (r Request) op() string {
	if r.Body == nil {
		return "GET " + r.Path
	}
	return "POST " + r.Path
}

// May reports whether the request may be sent again after f.
func (r Request) May(f *Failure) bool {
	switch f.Kind {
	case Busy:
		return true
	case Unreached:
		return !r.Prompt
	case Cut:
		return r.Repeatable && !r.Prompt
	}
	return false
}

// Try makes an exchange once, for callers that [Client.Persist] by themselves.
func (c *Client) Try(ctx context.Context, r Request) (json.RawMessage, error) {
	late := fmt.Errorf("no answer from %s within %v", c.URL(), c.server.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, c.server.Timeout, late)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	answer, err := request.Send()
	switch {
	case err != nil:
		return nil, c.Lost(ctx, err)
	case answer.IsError():
		return nil, refusal(answer.StatusCode(), answer.Header(), answer.Body())
	case !json.Valid(answer.Body()):
		return nil, &Failure{Kind: Foreign, Status: answer.StatusCode(), Message: fmt.Sprintf("the answer is no JSON: %.120q", answer.Body())}
	}
	return answer.Body(), nil
}

// request encodes r.
func (c *Client) request(ctx context.Context, r Request) (*resty.Request, error) {
	request := c.http.R().SetContext(ctx).SetHeaders(r.Header)
	request.Method, request.URL = http.MethodGet, r.Path
	if r.Body == nil {
		return request, nil
	}
	body, err := json.Marshal(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: encode: %w", r.op(), err)
	}
	request.Method = http.MethodPost
	return request.SetBody(body), nil
}

// Lost sorts an exchange that had no answer because of err.
func (c *Client) Lost(ctx context.Context, err error) *Failure {
	f := &Failure{Kind: Cut, Message: "the connection was lost", Err: err}
	var dial *net.OpError
	var certificate *tls.CertificateVerificationError
	switch {
	case ctx.Err() != nil:
		f.Message, f.Err = "", context.Cause(ctx)
	case errors.As(err, &certificate):
		f.Kind, f.Message = Refused, "the server's certificate is not trusted"
	case errors.Is(err, resty.ErrResponseBodyTooLarge):
		f.Kind, f.Message = Foreign, fmt.Sprintf("the answer is longer than %d MiB", maxAnswer>>20)
	case errors.As(err, &dial) && (dial.Op == "dial" || dial.Op == "proxyconnect"):
		f.Kind, f.Message = Unreached, "the server cannot be reached"
	}
	return f
}
