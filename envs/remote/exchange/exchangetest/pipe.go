// Package exchangetest serves HTTP over connections in memory, so that tests of
// time-outs and pauses run in fake time (testing/synctest).
package exchangetest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// Dial connects to a server of [Serve]; it fits exchange.Server.Dial.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Serve serves h until the test ends. It may be called inside a bubble.
func Serve(t *testing.T, h http.Handler) Dial {
	t.Helper()
	l := &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with ErrServerClosed
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.dial
}

// Refuse is the Dial of a server that is not there.
func Refuse(context.Context, string, string) (net.Conn, error) { return nil, refused }

var refused = &net.OpError{Op: "dial", Net: "pipe", Err: errors.New("connection refused")}

// listener hands the server's ends of pipes to Accept.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *listener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "pipe" }
func (address) String() string  { return "pipe" }

// DialAfter refuses connections until up and then dials.
func DialAfter(up time.Time, dial Dial) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if time.Now().Before(up) {
			return Refuse(ctx, network, address)
		}
		return dial(ctx, network, address)
	}
}
