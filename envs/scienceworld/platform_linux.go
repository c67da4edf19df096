package scienceworld

import (
	"io"
	"net"
	"syscall"
)

// pipelining: several commands may be in flight on one connection.
const pipelining = true

// quickReader acknowledges what has arrived before it waits for more. The
// simulator's gateway leaves Nagle's algorithm on: without this, every second
// small reply of a batch waits about 40 ms for our delayed acknowledgement.
func quickReader(conn net.Conn) io.Reader {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return conn
	}
	return &quickAck{conn: tcp, raw: raw}
}

type quickAck struct {
	conn *net.TCPConn
	raw  syscall.RawConn
}

func (q *quickAck) Read(p []byte) (int, error) {
	// The kernel forgets the option again, so it is set before each wait. If
	// it cannot be set, reading is merely slower.
	q.raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
	return q.conn.Read(p)
}
