package llamacpp

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

//go:embed serve.py
var serveScript string

// A server is one llama-server process.
type server interface {
	endpoint() endpoint
	exited() <-chan struct{} // closed when it has ended for whatever reason
	err() error              // why it has ended
	kill()                   // at once
	stop()                   // in order; returns when it is gone
}

// An endpoint says how to reach a server.
type endpoint struct {
	Address string `json:"address"` // http://127.0.0.1:PORT
	Version string `json:"version"` // as it says itself
	Key     string `json:"-"`
}

// A launch says what to start. Its JSON is serve.py's argument.
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

	python string
	binary string   // instead of Python and serve.py
	args   []string // of the binary
	grace  time.Duration
	log    zerolog.Logger
}

// A process is in its own process group, so that Ctrl-C in the terminal
// reaches us first, and ends with us however we end: its stdin closes.
type process struct {
	launch
	cmd    *exec.Cmd
	stdin  io.Closer
	output output
	ready  chan endpoint // receives once
	at     endpoint
	gone   chan struct{}
	killed atomic.Bool // by us
}

// startProcess returns when the model is loaded.
func startProcess(ctx context.Context, l launch) (server, error) {
	p := &process{launch: l, ready: make(chan endpoint, 1), gone: make(chan struct{})}
	key := rand.Text()
	if err := p.run(key); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.cmd.Path, err)
	}
	if l.binary != "" {
		go p.awaitHealth(ctx, key)
	}
	select {
	case p.at = <-p.ready:
		p.at.Key = key
		l.log.Info().Int("pid", p.cmd.Process.Pid).Str("address", p.at.Address).Msg("llama-server started")
		return p, nil
	case <-p.gone:
		return nil, p.err()
	case <-ctx.Done():
		p.kill()
		<-p.gone
		return nil, fmt.Errorf("%w%s", context.Cause(ctx), p.output.said())
	}
}

// run starts the child and the goroutine that waits for it.
func (p *process) run(key string) error {
	if err := p.command(); err != nil {
		return err
	}
	p.cmd.Dir = filepath.Dir(p.Model)
	p.cmd.Env = append(os.Environ(), "EMPO2_SERVER_KEY="+key, "LLAMA_API_KEY="+key,
		"OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0") // idle threads sleep instead of spinning
	var err error
	p.cmd.SysProcAttr = childAttributes()
	p.cmd.WaitDelay = 2 * time.Second
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, stderr := &lines{each: p.readReady}, &lines{each: func(line string) { p.output.add(line, p.log) }}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	started := make(chan error, 1)
	go func() {
		// The kernel ties the child to the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.gone)
		err := p.cmd.Start()
		started <- err
		if err != nil {
			p.stdin.Close()
			return
		}
		p.cmd.Wait() // its verdict is in ProcessState
		stdout.flush()
		stderr.flush()
	}()
	return <-started
}

// command is serve.py's or the binary's.
func (p *process) command() error {
	if p.binary != "" {
		address, arguments, err := p.arguments()
		p.at.Address = address
		p.cmd = exec.Command(p.binary, arguments...)
		return err
	}
	argument, err := json.Marshal(p.launch)
	// Isolated: neither the working directory nor PYTHONPATH shadows a module.
	p.cmd = exec.Command(p.python, "-I", "-c", serveScript, string(argument))
	return err
}

func (p *process) readReady(line string) {
	var at endpoint
	if json.Unmarshal([]byte(line), &at) != nil || at.Address == "" {
		p.output.add(line, p.log)
		return
	}
	select {
	case p.ready <- at:
	default:
	}
}

func (p *process) endpoint() endpoint      { return p.at }
func (p *process) exited() <-chan struct{} { return p.gone }

func (p *process) kill() {
	p.killed.Store(true)
	signalGroup(p.cmd.Process.Pid, syscall.SIGKILL)
}

// err explains the end with what the process wrote.
func (p *process) err() error {
	state := p.cmd.ProcessState
	s, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok || !s.Signaled():
	case s.Signal() == syscall.SIGILL:
		p.output.add(illegalLine, p.log)
	case s.Signal() == syscall.SIGKILL && !p.killed.Load():
		p.output.add(killedLine, p.log)
	}
	return p.output.failure("llama-server ended: " + state.String())
}

// stop closes stdin; then come SIGTERM and SIGKILL, each after the grace. A
// binary does not look at its stdin.
func (p *process) stop() {
	p.stdin.Close()
	if p.binary != "" {
		signalGroup(p.cmd.Process.Pid, syscall.SIGTERM)
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if p.within(p.grace) {
			return
		}
		p.log.Warn().Str("signal", sig.String()).Msg("llama-server does not end by itself")
		signalGroup(p.cmd.Process.Pid, sig)
	}
	<-p.gone
}

func (p *process) within(grace time.Duration) bool {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.gone:
		return true
	case <-t.C:
		return false
	}
}

// signalGroup signals a process group; one that is gone is fine.
func signalGroup(pid int, sig syscall.Signal) {
	if err := syscall.Kill(-pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		syscall.Kill(pid, sig)
	}
}
