package jsonhttp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/empo2/empo2/orchestrator/safetext"
)

const (
	dialTimeout = 5 * time.Second
	// idleTimeout is shorter than the 5 seconds after which uvicorn and llama-server close an idle connection. A
	// request on a connection that the server closes would be lost.
	idleTimeout = 3 * time.Second
)

// A Transport keeps idle connections open for reuse. Requests to the loopback never go through a proxy.
type Transport struct {
	*http.Transport
	dials atomic.Int64
}

// Dial opens a connection, as [net.Dialer.DialContext] does.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// NewTransport returns a transport that keeps up to the given number of idle connections.
func NewTransport(connections int) *Transport { return NewTransportOver(nil, connections) }

// NewTransportOver is NewTransport with connections opened by dial; nil: TCP.
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
		DisableCompression:  true, // answers are small, and most servers are on the same network
		// Servers send a few short headers.
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
	return t
}

// Dials returns the number of connections opened so far.
func (t *Transport) Dials() int64 { return t.dials.Load() }

// proxy returns the proxy of the environment variables, and none for the loopback.
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

// redirect follows a redirection only within the host, because the key must not be sent to another host, and only if
// the method does not change.
func redirect(r *http.Request, via []*http.Request) error {
	first := via[0]
	switch {
	case len(via) > 5, r.Method != first.Method, r.URL.Hostname() != first.URL.Hostname(),
		first.URL.Scheme == "https" && r.URL.Scheme != "https":
		return &redirectError{safetext.URL(r.URL.String())}
	}
	return nil
}

// tooLongError is returned for a body that exceeds the bound on answers.
type tooLongError struct{ bound int64 }

func (e *tooLongError) Error() string { return "the answer is longer than " + size(e.bound) }

// bounded bounds the bodies of answers.
type bounded struct {
	http.RoundTripper
	maxBytes int64
}

// RoundTrip implements [http.RoundTripper]. It does not bound an answer that switches protocols, because its body is a
// connection.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil && answer.StatusCode != http.StatusSwitchingProtocols {
		answer.Body = limit(answer.Body, b.maxBytes)
	}
	return answer, err
}

// CloseIdleConnections is called by [http.Client.CloseIdleConnections].
func (b bounded) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

type limited struct {
	io.ReadCloser
	left, bound int64
}

// limit bounds the bytes that can be read from body.
func limit(body io.ReadCloser, maxBytes int64) *limited { return &limited{body, maxBytes, maxBytes} }

// Read implements [io.Reader]. It reads up to one byte more than allowed, so that a body of exactly the limit ends with
// io.EOF.
func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, &tooLongError{l.bound}
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.ReadCloser.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return n - 1, &tooLongError{l.bound}
	}
	return n, err
}

// size formats a number of bytes.
func size(n int64) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d bytes", n)
}
