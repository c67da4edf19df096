package llamacpp

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
)

//go:embed serve.py
var serveScript string

// A server is one llama-server process.
type server interface {
	endpoint() endpoint
	exited() <-chan struct{} // closed when the process has ended
	err() error              // why the process has ended
	kill()                   // kills the process
	stop()                   // asks the process to end, and waits for it
	memory() int64           // resident bytes; 0: unknown
}

// An endpoint says how to reach a server.
type endpoint struct {
	Address string `json:"address"` // http://127.0.0.1:PORT
	Version string `json:"version"` // as the server reports it
	Key     string `json:"-"`
}

// A launch describes a process to start. Its JSON is the argument of serve.py.
type launch struct {
	Model        string   `json:"model"`
	Alias        string   `json:"alias"`
	Adapters     []string `json:"adapters"`
	Slots        int      `json:"slots"`
	Context      int      `json:"context"` // of all slots together
	Threads      int      `json:"threads"`
	BatchThreads int      `json:"batch_threads"`
	HTTPThreads  int      `json:"http_threads"`
	Exact        bool     `json:"exact"`

	python  string
	binary  string        // replaces Python and serve.py; may be empty
	args    []string      // of the binary
	inherit []string      // environment variables: NAME or NAME=VALUE
	timeout time.Duration // until it is ready
	grace   time.Duration
	log     zerolog.Logger
}

// A child is a server in a child process.
type child struct {
	*process.Process
	at endpoint
}

// startProcess starts a process and waits until the model is loaded.
func startProcess(ctx context.Context, l launch) (server, error) {
	var p *child
	err := process.OnFreePorts(1, func(ports []int) error {
		p = &child{at: endpoint{Key: rand.Text()}}
		c, err := p.command(l, ports[0])
		if err == nil {
			p.Process, err = process.Start(ctx, c)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	l.log.Info().Int("pid", p.PID()).Str("address", p.at.Address).Msg("llama-server listens")
	return p, nil
}

// command returns the command for the binary, which listens on port, or for serve.py,
// which takes a port of its own and ends when its stdin is closed.
func (p *child) command(l launch, port int) (process.Command, error) {
	c := process.Command{
		Name: "llama-server", Dir: l.workingDir(), Secrets: []string{p.at.Key}, Grace: l.grace, Hints: exitHints,
		Needs:        process.Libraries,
		Inherit:      l.inherit,
		Log:          l.log,
		Env:          []string{"OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0"}, // idle threads sleep instead of spinning
		StartTimeout: l.timeout,
	}
	if l.binary != "" {
		address, arguments := l.arguments(port)
		p.at.Address = address
		c.Args, c.Poll, c.PollInterval = append([]string{l.binary}, arguments...), p.poll, healthPoll
		c.Env = append(c.Env, "LLAMA_API_KEY="+p.at.Key)
		return c, nil
	}
	argument, err := json.Marshal(l)
	// -I: modules in the working directory or PYTHONPATH are ignored.
	c.Args, c.Ready, c.Stdin = []string{l.python, "-I", "-c", serveScript, string(argument)}, p.readReady, true
	c.Env = append(c.Env, "EMPO2_SERVER_KEY="+p.at.Key)
	return c, err
}

func (p *child) readReady(line string) (bool, error) {
	at := endpoint{Key: p.at.Key}
	if json.Unmarshal([]byte(line), &at) != nil || at.Address == "" {
		return false, nil
	}
	p.at = at
	return true, nil
}

func (p *child) endpoint() endpoint      { return p.at }
func (p *child) exited() <-chan struct{} { return p.Done() }
func (p *child) err() error              { return p.Err() }
func (p *child) kill()                   { p.Kill() }
func (p *child) stop()                   { p.Stop() }
func (p *child) memory() int64           { return p.Memory() }
