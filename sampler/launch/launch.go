// Package launch fills in the command lines of inference servers and finds
// ports for them.
package launch

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// Restarts is the budget of a server that may be started again this often
// within half an hour; 0: 3 times, negative: never.
func Restarts(most int) process.Budget {
	if most == 0 {
		most = 3
	}
	return process.Budget{Restarts: most, Window: 30 * time.Minute, Pause: time.Second}
}

// Fill replaces the places {name} in a command's words.
func Fill(command []string, places map[string]string) []string {
	var out []string
	for _, word := range command {
		for name, value := range places {
			word = strings.ReplaceAll(word, "{"+name+"}", value)
		}
		out = append(out, word)
	}
	return out
}

// Has says whether the place {name} is in a command.
func Has(command []string, name string) bool {
	return slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "{"+name+"}") })
}

// FreePorts are n different ports of the loopback that nobody listens on now.
func FreePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // only when all are found, so that none is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
