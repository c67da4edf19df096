package jsonhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 5 * time.Second
	// idleTimeout is shorter than the 5 seconds after which uvicorn and
	// llama-server close an idle connection: a request on a connection that the
	// server is closing is lost.
	idleTimeout = 3 * time.Second
)

// A Transport keeps as many idle connections open as requests are usual at the
// same time. Requests to the loopback never go through a proxy.
type Transport struct {
	*http.Transport
	dials atomic.Int64
}

// Dial opens a connection, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// NewTransport makes a transport for the given number of concurrent requests.
func NewTransport(connections int) *Transport { return NewTransportOver(nil, connections) }

// NewTransportOver makes a transport that opens connections with dial; nil: TCP.
func NewTransportOver(dial Dial, connections int) *Transport {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	t := &Transport{}
	t.Transport = &http.Transport{
		Proxy: proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			t.dials.Add(1)
			return dial(ctx, network, address)
		},
		TLSHandshakeTimeout: 10 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        connections,
		MaxIdleConnsPerHost: connections,
		IdleConnTimeout:     idleTimeout,
		DisableCompression:  true, // answers are small, and most servers are near
		WriteBufferSize:     16 << 10,
		ReadBufferSize:      16 << 10,
	}
	return t
}

// Dials is the number of connections that were opened so far.
func (t *Transport) Dials() int64 { return t.dials.Load() }

// proxy is that of the environment, except for the loopback.
func proxy(r *http.Request) (*url.URL, error) {
	host := r.URL.Hostname()
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// redirectError is a redirection that is not followed.
type redirectError struct{ to string }

func (e *redirectError) Error() string { return "the server redirects to " + e.to }

// redirect follows only within the host, as the key must not leave it, and only
// if the request stays as it is.
func redirect(r *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > 5, r.Method != first.Method, r.URL.Hostname() != first.URL.Hostname(),
		first.URL.Scheme == "https" && r.URL.Scheme != "https":
		return &redirectError{r.URL.Redacted()}
	}
	return nil
}

// errTooLong is the error of a body that is longer than an answer may be.
var errTooLong = errors.New("the answer is too long")

// bounded limits the bodies of answers.
type bounded struct {
	http.RoundTripper
	most int64
}

// RoundTrip implements [http.RoundTripper]. The body of an answer that switches
// protocols is a connection, which stays as it is.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil && answer.StatusCode != http.StatusSwitchingProtocols {
		answer.Body = limit(answer.Body, b.most)
	}
	return answer, err
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] work.
func (b bounded) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

type limited struct {
	io.ReadCloser
	left int64
}

func limit(body io.ReadCloser, most int64) *limited { return &limited{body, most} }

// Read implements [io.Reader]. It reads one byte more than allowed, so that a
// body of exactly the limit ends with io.EOF.
func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errTooLong
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, errTooLong
	}
	return n, err
}

// size writes a number of bytes for readers.
func size(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
