package process

import (
	"fmt"
	"net"
	"strings"
)

// portTries is how often a server is started if others take its ports.
const portTries = 3

// OnFreePorts calls start with n ports that are free, for servers that bind them
// themselves. If another program took a port before a server did, OnFreePorts calls
// start again with other ports.
func OnFreePorts(n int, start func(ports []int) error) error {
	for try := 1; ; try++ {
		ports, err := FreePorts(n)
		if err != nil {
			return err
		}
		if err = start(ports); err == nil || try == portTries || !saysPortTaken(err) {
			return err
		}
	}
}

// saysPortTaken reports whether the last lines of a server that ended say EADDRINUSE
// in the words of Linux, macOS or Windows.
func saysPortTaken(err error) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, "address already in use") ||
		strings.Contains(text, "only one usage of each socket address")
}

// FreePorts returns n different ports of 127.0.0.1 that are free now.
func FreePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // after the loop, so that the ports differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
