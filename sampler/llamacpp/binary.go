package llamacpp

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"
)

// healthPoll is the pause between two looks at a binary that loads its model.
const healthPoll = 50 * time.Millisecond

// arguments are the command line of a llama-server binary and the address at
// which it will listen. The key travels in LLAMA_API_KEY, which other users
// cannot read. The port is free now; if somebody takes it first, the process
// ends and says so.
func (l launch) arguments() (address string, arguments []string, err error) {
	port, err := freePort()
	if err != nil {
		return "", nil, err
	}
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

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// awaitHealth asks until the binary has loaded its model, has ended, or is no
// longer waited for.
func (p *process) awaitHealth(ctx context.Context, key string) {
	at := endpoint{Address: p.at.Address, Key: key}
	c := newClient(at, 1)
	defer c.close()
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	for {
		if c.health(ctx) == nil {
			at.Version = c.build(ctx)
			p.ready <- at
			return
		}
		select {
		case <-tick.C:
		case <-p.gone:
			return
		case <-ctx.Done():
			return
		}
	}
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
