package scienceworld

import (
	"io"
	"net"
	"syscall"
)

// pipelining allows several commands in flight on one connection.
const pipelining = true

// quickReader acknowledges received data before it waits for more. The
// simulator's gateway uses Nagle's algorithm. Without quickReader, every second
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
	// The kernel resets the option, so it is set before each wait. Reading is
	// only slower if it cannot be set.
	q.raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_QUICKACK, 1)
	})
	return q.conn.Read(p)
}
