package trainerbridge

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// ProcessConfig says how to start the Python trainer.
type ProcessConfig struct {
	Python    string   // interpreter that has the trainer's requirements
	SourceDir string   // holds the package empo2_trainer, see [ExtractSources]
	Model     string   // base model: folder in Hugging Face format
	Root      string   // run directory that adapters/ and checkpoints/ are written to
	Threads   int      // of torch; 0 is torch's own choice
	Seed      int64    // of torch
	Dtype     string   // of the base model: float32 or bfloat16; empty: the trainer's default
	Device    string   // auto, cpu, cuda or cuda:N; empty: the trainer's default
	Formats   []string // what adapters are exported as: peft, gguf; none: the trainer's default

	// StartTimeout bounds the time until the trainer is ready; 0 is 3 minutes,
	// as a first import of torch from a cold disk is slow.
	StartTimeout time.Duration
	// Grace is how long the trainer may take to end by itself; 0 is 5 seconds.
	Grace time.Duration
	// Log gets what the trainer logs; the zero value is silent.
	Log zerolog.Logger
}

// Ready is what a trainer says when it is.
type Ready struct {
	Port      int    `json:"port"`
	PID       int    `json:"pid"`
	Model     string `json:"model"`
	VocabSize int    `json:"vocab_size"`
}

// A Process is a running trainer. It is in its own process group, so that
// Ctrl-C in the terminal reaches us first, and it ends with us however we end:
// its stdin closes.
type Process struct {
	cfg    ProcessConfig
	cmd    *exec.Cmd
	stdin  io.Closer
	token  string
	output output
	ready  chan Ready // receives once

	first  Ready
	alive  context.Context // ends with the process; the cause is why
	exited chan struct{}

	mu      sync.Mutex
	closing bool
}

// Start starts a trainer and waits until it is ready. The context bounds the
// start only. Close the process when done.
func Start(ctx context.Context, cfg ProcessConfig) (*Process, error) {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 3 * time.Minute
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	p := &Process{cfg: cfg, token: newToken(), ready: make(chan Ready, 1), exited: make(chan struct{})}
	if err := p.launch(); err != nil {
		return nil, fmt.Errorf("start trainer: %w", err)
	}
	late := fmt.Errorf("not ready within %v", cfg.StartTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.StartTimeout, late)
	defer cancel()
	select {
	case p.first = <-p.ready:
		cfg.Log.Info().Int("pid", p.cmd.Process.Pid).Int("port", p.first.Port).Msg("trainer started")
		return p, nil
	case <-p.exited:
		p.closeStdin()
		return nil, fmt.Errorf("start trainer: %w", context.Cause(p.alive))
	case <-ctx.Done():
		p.Close()
		return nil, fmt.Errorf("start trainer: %w%s", context.Cause(ctx), p.output.said())
	}
}

// URL is the trainer's address, without a slash at the end.
func (p *Process) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.first.Port) }

// Token is the bearer token that this process was started with.
func (p *Process) Token() string { return p.token }

// Ready is what the trainer said when it was ready.
func (p *Process) Ready() Ready { return p.first }

// Exited is closed when the process has ended for whatever reason.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Err is nil while the process runs, an [*ExitError] if it ended by itself,
// and [ErrUnavailable] after Close.
func (p *Process) Err() error { return context.Cause(p.alive) }

// Close ends the process: stdin is closed, then come SIGTERM and SIGKILL to
// its group, each after the grace. It returns when the process is gone.
func (p *Process) Close() error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.closeStdin()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if p.gone(p.cfg.Grace) {
			return nil
		}
		p.cfg.Log.Warn().Str("signal", sig.String()).Msg("trainer does not end by itself")
		signalGroup(p.cmd.Process.Pid, sig)
	}
	<-p.exited
	return nil
}

func (p *Process) gone(within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-p.exited:
		return true
	case <-t.C:
		return false
	}
}

func (p *Process) closeStdin() {
	if p.stdin != nil {
		p.stdin.Close()
	}
}

// launch starts the child and the goroutine that waits for it.
func (p *Process) launch() error {
	cmd, err := p.command()
	if err != nil {
		return err
	}
	p.cmd = cmd
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		return err
	}
	stdout := &lines{each: p.readReady}
	stderr := &lines{each: func(line string) { p.output.add(line, p.cfg.Log) }}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	alive, die := context.WithCancelCause(context.Background())
	p.alive = alive
	started := make(chan error, 1)
	go func() {
		// The kernel ties the child to the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.exited)
		err := cmd.Start()
		started <- err
		if err != nil {
			die(err)
			return
		}
		cmd.Wait()
		signalGroup(cmd.Process.Pid, syscall.SIGKILL) // what it left behind
		stdout.flush()
		stderr.flush()
		die(p.verdict())
	}()
	return <-started
}

func (p *Process) command() (*exec.Cmd, error) {
	paths := []string{p.cfg.SourceDir, p.cfg.Model, p.cfg.Root}
	for i, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		paths[i] = abs
	}
	source, model, root := paths[0], paths[1], paths[2]
	args := []string{"-m", "empo2_trainer", "serve", "--model", model, "--root", root,
		"--host", "127.0.0.1", "--port", "0", "--seed", strconv.FormatInt(p.cfg.Seed, 10)}
	if p.cfg.Threads > 0 {
		args = append(args, "--threads", strconv.Itoa(p.cfg.Threads))
	}
	for flag, value := range map[string]string{"--dtype": p.cfg.Dtype, "--device": p.cfg.Device} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if len(p.cfg.Formats) > 0 {
		args = append(args, "--formats", strings.Join(p.cfg.Formats, ","))
	}
	cmd := exec.Command(p.cfg.Python, args...)
	// Python looks for modules in its working directory first: it must not be
	// the user's.
	cmd.Dir = source
	cmd.Env = append(os.Environ(),
		"PYTHONPATH="+source, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1",
		"EMPO2_TRAINER_TOKEN="+p.token)
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = 2 * time.Second // for pipes that a grandchild keeps open
	return cmd, nil
}

// verdict is why the process ended.
func (p *Process) verdict() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	}
	err := p.output.exitError(p.cmd.ProcessState.String())
	p.cfg.Log.Error().Str("state", err.State).Str("fatal", err.Fatal).Msg("trainer ended")
	return err
}

// newToken is 128 random bits; the child gets it by its environment, which
// other users cannot read.
func newToken() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// signalGroup signals a process group; one that is gone is fine.
func signalGroup(pid int, sig syscall.Signal) {
	if err := syscall.Kill(-pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		syscall.Kill(pid, sig)
	}
}
