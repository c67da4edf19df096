package scienceworld

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// errHung is the error after a deadline of this package (not of the caller).
var errHung = errors.New("the simulator does not answer")

// cancelGrace is the time that a running call still has after its context has ended.
// A step takes milliseconds, so it almost always finishes, and the simulator stays
// usable.
const cancelGrace = 2 * time.Second

// maxReply is the largest length of a reply line in bytes.
const maxReply = 64 << 20

// A gateway is a connection to a py4j server. One goroutine at a time uses it. After
// a transport error it cannot be used any more.
type gateway struct {
	conn net.Conn
	r    *bufio.Reader
	err  error
	// objects counts the objects in all replies so far. A server numbers its
	// objects from o0. So on the only connection to a server the name of the
	// next object is known before the reply.
	objects int
}

// dial connects to a py4j server on the loopback interface.
func dial(ctx context.Context, port int, timeout time.Duration) (*gateway, error) {
	d := net.Dialer{Timeout: timeout}
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, fmt.Errorf("connect to the JVM: %w", err)
	}
	return newGateway(conn), nil
}

func newGateway(conn net.Conn) *gateway {
	return &gateway{conn: conn, r: bufio.NewReaderSize(quickReader(conn), 64<<10)}
}

func (g *gateway) close() error { return g.conn.Close() }

// nextObject predicts the name of the k-th object from now (0 = the next).
func (g *gateway) nextObject(k int) objectID {
	return objectID(fmt.Sprintf("o%d", g.objects+k))
}

// A result is the answer to one command: a value or a *javaError.
type result struct {
	value any
	err   error
}

// do sends the commands and reads all replies within timeout. After an error the
// connection cannot be used any more.
func (g *gateway) do(ctx context.Context, timeout time.Duration, commands ...string) ([]result, error) {
	if g.err != nil {
		return nil, g.err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx) // nothing was sent, the connection stays usable
	}
	deadline := time.Now().Add(timeout)
	if err := g.conn.SetDeadline(deadline); err != nil {
		g.err = err
		return nil, err
	}
	defer g.shortenOnCancel(ctx, deadline)()
	results, err := g.exchange(commands)
	if err != nil {
		g.err = g.explain(ctx, timeout, err)
		g.conn.Close()
		return nil, g.err
	}
	return results, nil
}

// shortenOnCancel shortens the deadline when ctx ends. The returned function stops
// this.
func (g *gateway) shortenOnCancel(ctx context.Context, deadline time.Time) func() {
	fired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(fired)
		if early := time.Now().Add(cancelGrace); early.Before(deadline) {
			g.conn.SetDeadline(early) // fails only on a closed connection
		}
	})
	return func() {
		if !stop() {
			<-fired
		}
	}
}

// explain adds the reason to a transport error.
func (g *gateway) explain(ctx context.Context, timeout time.Duration, err error) error {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", errHung, context.Cause(ctx))
		}
		return fmt.Errorf("%w within %s", errHung, timeout)
	}
	return fmt.Errorf("connection to the JVM: %w", err)
}

// exchange sends all commands in one write if the platform can acknowledge replies at
// once. If not, it waits for each reply before the next command.
func (g *gateway) exchange(commands []string) ([]result, error) {
	batch := len(commands)
	if !pipelining {
		batch = 1
	}
	results := make([]result, 0, len(commands))
	for len(commands) > 0 {
		n := min(batch, len(commands))
		if _, err := g.conn.Write([]byte(strings.Join(commands[:n], ""))); err != nil {
			return nil, err
		}
		for range n {
			r, err := g.readReply()
			if err != nil {
				return nil, err
			}
			results = append(results, r)
		}
		commands = commands[n:]
	}
	return results, nil
}

func (g *gateway) readReply() (result, error) {
	line, err := g.readLine()
	if err != nil {
		return result{}, err
	}
	value, err := parseReply(line)
	var thrown *javaError
	if err != nil && !errors.As(err, &thrown) {
		return result{}, err
	}
	if _, isObject := value.(objectID); isObject || thrown != nil && thrown.Exception != "" {
		g.objects++
	}
	return result{value, err}, nil
}

func (g *gateway) readLine() (string, error) {
	var line []byte
	for {
		part, err := g.r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return string(line[:len(line)-1]), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
		if len(line) > maxReply {
			return "", fmt.Errorf("reply longer than %d bytes", maxReply)
		}
	}
}

// call sends one command and returns the value of the reply.
func (g *gateway) call(ctx context.Context, timeout time.Duration, command string) (any, error) {
	results, err := g.do(ctx, timeout, command)
	if err != nil {
		return nil, err
	}
	return results[0].value, results[0].err
}
