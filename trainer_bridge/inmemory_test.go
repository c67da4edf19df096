package trainerbridge

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/empo2/empo2/trainer_bridge/trainertest/fakeserver"
)

// memoryNetwork is a network without sockets. synctest needs it, because it
// cannot tell whether a goroutine waits for a socket.
type memoryNetwork struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemoryNetwork() *memoryNetwork {
	return &memoryNetwork{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (m *memoryNetwork) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.done:
		return nil, net.ErrClosed
	}
}

func (m *memoryNetwork) Close() error {
	m.once.Do(func() { close(m.done) })
	return nil
}

func (m *memoryNetwork) Addr() net.Addr { return &net.UnixAddr{Name: "memory.test", Net: "memory"} }

func (m *memoryNetwork) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case m.conns <- there:
		return here, nil
	case <-m.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inMemory connects a client to a fake trainer in the same synctest bubble.
func inMemory(t *testing.T, opts fakeserver.Options, cfg ClientConfig) (*fakeserver.Server, *Client) {
	t.Helper()
	m := newMemoryNetwork()
	opts.Listener = m
	s := fakeserver.New(t, opts)
	cfg.URL, cfg.Rank = s.URL, 1
	c, err := dial(t.Context(), cfg, &http.Transport{DialContext: m.dial, IdleConnTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s, c
}
