package llamacpp

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
)

// healthPoll is the pause between two looks at a binary that loads its model.
const healthPoll = 50 * time.Millisecond

// arguments are the command line of a llama-server binary and the address at
// which it will listen. The key travels in LLAMA_API_KEY, which other users
// cannot read. The port is free now; if somebody takes it first, the process
// ends and says so.
func (l launch) arguments() (address string, arguments []string, err error) {
	ports, err := process.FreePorts(1)
	if err != nil {
		return "", nil, err
	}
	port := strconv.Itoa(ports[0])
	arguments = []string{
		"--host", "127.0.0.1", "--port", port, "--offline",
		"--model", l.Model, "--alias", l.Alias,
		"--parallel", strconv.Itoa(l.Slots), "--ctx-size", strconv.Itoa(l.Context),
		"--threads", strconv.Itoa(l.Threads), "--threads-batch", strconv.Itoa(l.BatchThreads),
		"--threads-http", strconv.Itoa(l.HTTPThreads), "--no-warmup",
		// The host's prompt cache is keyed by tokens only and outlives a slot's adapter.
		"--cache-ram", "0",
	}
	if len(l.Adapters) > 0 {
		arguments = append(arguments, "--lora", strings.Join(l.Adapters, ","))
	}
	if l.Exact {
		arguments = append(arguments, "--flash-attn", "off", "--cache-type-k", "f32", "--cache-type-v", "f32")
	}
	return "http://" + net.JoinHostPort("127.0.0.1", port), append(arguments, l.args...), nil
}

// poll is nil when the binary has loaded its model.
func (p *child) poll(ctx context.Context) error {
	c := newClient(p.at, 1)
	defer c.close()
	if err := c.health(ctx); err != nil {
		return err
	}
	p.at.Version = c.build(ctx)
	return nil
}

// build is the version that the server says of itself, "unknown" if none.
func (c *client) build(ctx context.Context) string {
	var props struct {
		Build string `json:"build_info"`
	}
	if c.call(ctx, "/props", nil, &props) != nil || props.Build == "" {
		return "unknown"
	}
	return props.Build
}
