package llamacpp

import (
	"context"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// healthPoll is the pause between health checks while the model is loading.
const healthPoll = 50 * time.Millisecond

// arguments returns the command line of a llama-server binary and its address. The
// key is in LLAMA_API_KEY, because other users can read the command line.
func (l launch) arguments(free int) (address string, arguments []string) {
	port := strconv.Itoa(free)
	arguments = []string{
		"--host", "127.0.0.1", "--port", port, "--offline",
		"--model", l.Model, "--alias", l.Alias,
		"--parallel", strconv.Itoa(l.Slots), "--ctx-size", strconv.Itoa(l.Context),
		"--threads", strconv.Itoa(l.Threads), "--threads-batch", strconv.Itoa(l.BatchThreads),
		"--threads-http", strconv.Itoa(l.HTTPThreads), "--no-warmup",
		// The key of the host's prompt cache has tokens, but no adapter.
		"--cache-ram", "0",
	}
	for _, adapter := range l.Adapters {
		if strings.Contains(adapter, ",") {
			adapter = filepath.Base(adapter) // see workingDir
		}
		arguments = append(arguments, "--lora", adapter)
	}
	if l.Exact {
		arguments = append(arguments, "--flash-attn", "off", "--cache-type-k", "f32", "--cache-type-v", "f32")
	}
	return "http://" + net.JoinHostPort("127.0.0.1", port), append(arguments, l.args...)
}

// workingDir returns the working directory of a process. llama-server takes a
// comma in --lora for the end of a file's name. A file in a folder with a comma is
// therefore named without its folder.
func (l launch) workingDir() string {
	for _, adapter := range l.Adapters {
		if strings.Contains(adapter, ",") {
			return filepath.Dir(adapter)
		}
	}
	return filepath.Dir(l.Model)
}

// poll returns nil if the binary has loaded its model.
func (p *child) poll(ctx context.Context) error {
	c := newClient(p.at, 1)
	defer c.close()
	if err := c.health(ctx); err != nil {
		return err
	}
	p.at.Version = c.build(ctx)
	return nil
}

// build returns the version of the server, "unknown" if it gives none.
func (c *client) build(ctx context.Context) string {
	var props struct {
		Build string `json:"build_info"`
	}
	if c.call(ctx, "/props", nil, &props) != nil || props.Build == "" {
		return "unknown"
	}
	return props.Build
}
