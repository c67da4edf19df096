package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
)

// A Process is a running child. It is safe for concurrent use.
type Process struct {
	c       Command
	cmd     *exec.Cmd
	guard   *guard
	stdin   io.Closer // nil: /dev/null
	output  output
	ready   chan error    // receives once
	decided bool          // by Ready has decided; the reader of stdout's
	done    chan struct{} // closed when the process and its group are gone
	ended   atomic.Bool   // by Stop or Kill
}

// Start runs a command and returns when it is ready. The context bounds the
// start only. A start that does not succeed leaves no process behind.
func Start(ctx context.Context, c Command) (*Process, error) {
	p, err := begin(c)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.c.Name, err)
	}
	started := time.Now()
	p.c.Log.Info().Int("pid", p.PID()).Msg("starting " + p.c.Name)
	p.c.Log.Debug().Int("pid", p.PID()).Str("command", p.c.line()).Msg(p.c.Name)
	if err := p.awaitReady(ctx); err != nil {
		p.Kill()
		<-p.done
		return nil, fmt.Errorf("start %s: %w", p.c.Name, p.explain(err))
	}
	p.c.Log.Info().Int("pid", p.PID()).Dur("took", time.Since(started)).Msg(p.c.Name + " is ready")
	return p, nil
}

func (p *Process) awaitReady(ctx context.Context) error {
	if p.c.Ready == nil && p.c.Poll == nil {
		return nil
	}
	late := fmt.Errorf("not ready within %v", p.c.StartTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, p.c.StartTimeout, late)
	defer cancel()
	for {
		if p.c.Poll != nil && p.c.Poll(ctx) == nil && p.Running() {
			return nil
		}
		var tick <-chan time.Time
		if p.c.Poll != nil {
			tick = time.After(p.c.PollInterval)
		}
		select {
		case err := <-p.ready:
			return err
		case <-p.done:
			return p.lastChance()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick:
		}
	}
}

// lastChance prefers the error that Ready returned for the output to the end itself.
func (p *Process) lastChance() error {
	select {
	case err := <-p.ready:
		if err != nil {
			return err
		}
	default:
	}
	return p.Err()
}

// explain adds the output of the process to an error that does not quote it yet.
func (p *Process) explain(err error) error {
	var exit *ExitError
	if errors.As(err, &exit) {
		return err
	}
	return fmt.Errorf("%w%s", err, block(p.Tail()))
}

// PID is the process. Its group has another number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended, for whatever reason.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Err is nil while the process runs, and then an [*ExitError].
func (p *Process) Err() error {
	if p.Running() {
		return nil
	}
	return p.exitError()
}

// Tail is the last lines that the process wrote and that errors quote.
func (p *Process) Tail() []string { return p.output.tail() }

// Kill sends SIGKILL to the group. Wait for Done afterwards if it matters.
func (p *Process) Kill() {
	p.ended.Store(true)
	p.signal(syscall.SIGKILL)
}

// Stop ends the process and returns when it is gone: its stdin is closed if it
// heeds it, then its group gets SIGTERM and at last SIGKILL, each after the
// grace. It may be called again.
func (p *Process) Stop() {
	p.ended.Store(true)
	if p.stdin != nil {
		p.stdin.Close() // closing it twice does no harm
		if p.within(p.c.Grace) {
			return
		}
		p.warn(syscall.SIGTERM)
	}
	p.signal(syscall.SIGTERM)
	p.orKill()
}

// orKill waits for the grace and then kills the group.
func (p *Process) orKill() {
	if !p.within(p.c.Grace) {
		p.warn(syscall.SIGKILL)
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

func (p *Process) warn(next syscall.Signal) {
	p.c.Log.Warn().Int("pid", p.PID()).Str("signal", next.String()).Msg(p.c.Name + " does not end by itself")
}

func (p *Process) within(grace time.Duration) bool {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// signal does nothing after the end, when another process may have the number.
func (p *Process) signal(s syscall.Signal) {
	if p.Running() {
		p.guard.signal(s)
	}
}

// begin starts the child and the goroutine that waits for it. The process is
// never nil, so that errors can name it.
func begin(c Command) (*Process, error) {
	c, err := c.withDefaults()
	p := &Process{c: c, ready: make(chan error, 1), done: make(chan struct{})}
	if err != nil {
		return p, err
	}
	p.cmd = exec.Command(c.Args[0], c.Args[1:]...)
	p.cmd.Dir, p.cmd.Env = c.Dir, append(Environ(c.Without...), c.Env...)
	p.cmd.WaitDelay = 2 * time.Second // for pipes that a grandchild keeps open
	if c.Stdin {
		if p.stdin, err = p.cmd.StdinPipe(); err != nil {
			return p, err
		}
	}
	stdout := &lines{each: p.stdout}
	stderr := &lines{each: func(line string) { p.handleOutput(line, c.Stderr) }}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if c.Merge {
		p.cmd.Stderr = stdout
	}
	if p.guard, err = newGuard(); err != nil {
		return p, fmt.Errorf("start its guard: %w", err)
	}
	p.guard.join(p.cmd)
	started := make(chan error, 1)
	go func() {
		// Linux ties the child to the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.cmd.Wait() // its verdict is in ProcessState
		}
		p.guard.end() // and what the child left behind
		stdout.flush()
		stderr.flush()
	}()
	if err = <-started; err != nil {
		<-p.done
	}
	var path *fs.PathError
	missing := errors.As(err, &path) && path.Op == "fork/exec" && errors.Is(err, fs.ErrNotExist)
	if errors.Is(err, exec.ErrNotFound) || missing {
		err = fmt.Errorf("%w\n  hint: install the program, or name its path", err)
	}
	return p, err
}

// stdout looks for the ready line, and treats all others as output.
func (p *Process) stdout(line string) {
	if p.c.Ready != nil && !p.decided {
		ready, err := p.c.Ready(line)
		if ready || err != nil {
			p.decided = true
			p.ready <- err
			return
		}
	}
	p.handleOutput(line, p.c.Stdout)
}

func (p *Process) handleOutput(line string, each func(string) bool) {
	line = p.c.redact(line)
	if each(line) {
		p.output.add(line)
	}
}
