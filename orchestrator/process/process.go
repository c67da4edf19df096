package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

// A Process is a running child. It is safe for concurrent use.
type Process struct {
	c       Command
	cmd     *exec.Cmd
	guard   *guard
	secrets safetext.Redactor
	stdin   io.Closer // nil: /dev/null
	output  output
	ready   chan error    // receives the decision of Ready, once
	decided bool          // Ready has decided; only the reader of stdout uses it
	done    chan struct{} // closed when the process and its group have ended
	stopped atomic.Bool   // by Stop, Kill or a context
	kills   int           // of Command.Kills before the start; -1: unknown
}

// Start runs a command and returns when it is ready. The context bounds the
// start only. If the start fails, no process is left.
func Start(ctx context.Context, c Command) (*Process, error) {
	p, err := begin(c)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.c.Name, err)
	}
	started := time.Now()
	end := watchdog.Owns(ctx, p.c.Name, p.PID())
	go func() {
		<-p.done
		end()
	}()
	defer watchdog.Begin(ctx, "start", p.c.Name, p.c.StartTimeout)()
	p.c.Log.Info().Int("pid", p.PID()).Msg("starting " + p.c.Name)
	p.c.Log.Debug().Int("pid", p.PID()).Str("command", p.c.line(p.secrets)).Msg(p.c.Name)
	if err := p.awaitReady(ctx); err != nil {
		p.Kill()
		<-p.done
		return nil, fmt.Errorf("start %s: %w", p.c.Name, p.explain(err))
	}
	took := time.Since(started).Round(time.Millisecond)
	p.c.Log.Info().Int("pid", p.PID()).Stringer("took", took).Msg(p.c.Name + " is ready")
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
			return p.endBeforeReady()
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick:
		}
	}
}

// endBeforeReady returns the error of Ready if there is one, because it says
// more than the end of the process.
func (p *Process) endBeforeReady() error {
	select {
	case err := <-p.ready:
		if err != nil {
			return err
		}
	default:
	}
	return p.Err()
}

// explain adds the output of the process to an error that does not quote it.
func (p *Process) explain(err error) error {
	var exit *ExitError
	if errors.As(err, &exit) {
		return err
	}
	return fmt.Errorf("%w%s", err, block(p.Tail()))
}

// PID returns the id of the process. Its group has another number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended for any reason.
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

// Tail returns the last lines of output that errors quote.
func (p *Process) Tail() []string { return p.output.tail() }

// Kill sends SIGKILL to the group and does not wait. Done is closed when the
// process has ended.
func (p *Process) Kill() {
	p.stopped.Store(true)
	p.signal(syscall.SIGKILL)
}

// Stop ends the process and returns when it has ended. It closes the child's
// stdin if Command.Stdin is set, then sends SIGTERM to the group, then SIGKILL.
// It waits for Command.Grace between these steps. It may be called more than
// once.
func (p *Process) Stop() {
	p.stopped.Store(true)
	if p.stdin != nil {
		p.stdin.Close() // a second Close has no effect
		if p.endsWithin(p.c.Grace) {
			return
		}
		p.warn(syscall.SIGTERM)
	}
	p.signal(syscall.SIGTERM)
	p.killAfterGrace()
}

// killAfterGrace waits for the process to end, and kills the group after the
// grace.
func (p *Process) killAfterGrace() {
	if !p.endsWithin(p.c.Grace) {
		p.warn(syscall.SIGKILL)
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

func (p *Process) warn(next syscall.Signal) {
	p.c.Log.Warn().Int("pid", p.PID()).Str("signal", next.String()).Msg(p.c.Name + " did not end in time")
}

func (p *Process) endsWithin(grace time.Duration) bool {
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

// signal does nothing after the end: another process may have the number then.
func (p *Process) signal(s syscall.Signal) {
	if p.Running() {
		p.guard.signal(s)
	}
}

// pipeWait bounds the wait for output after the child has ended. A grandchild
// may keep the pipes open.
const pipeWait = 2 * time.Second

// begin starts the child and the goroutine that waits for it. The process is
// never nil: errors contain its name.
func begin(c Command) (*Process, error) {
	c, err := c.withDefaults()
	p := &Process{c: c, ready: make(chan error, 1), done: make(chan struct{})}
	if err != nil {
		return p, err
	}
	p.kills = p.countKills()
	p.cmd = exec.Command(c.Args[0], c.Args[1:]...)
	p.setEnvironment()
	p.cmd.WaitDelay = pipeWait
	if c.Stdin {
		if p.stdin, err = p.cmd.StdinPipe(); err != nil {
			return p, err
		}
	}
	flush := p.connectOutput()
	if p.guard, err = newGuard(); err != nil {
		return p, fmt.Errorf("start its guard: %w", err)
	}
	p.guard.join(p.cmd)
	started := make(chan error, 1)
	go p.run(started, flush)
	if err = <-started; err != nil {
		<-p.done
	}
	return p, withProgramHint(err)
}

// setEnvironment chooses the child's variables, and the secrets that its output must not
// show.
func (p *Process) setEnvironment() {
	env := Environ(p.c.Needs, p.c.Inherit...)
	p.secrets = safetext.NewRedactor(append(secretsOf(env, p.c.Inherit), p.c.Secrets...)...)
	p.cmd.Dir, p.cmd.Env = p.c.Dir, append(env, p.c.Env...)
	for _, name := range p.c.Inherit {
		if _, set := os.LookupEnv(name); !set && !strings.ContainsAny(name, "=*") {
			p.c.Log.Warn().Str("name", name).Msg(p.c.Name + " should inherit an environment variable that is not set")
		}
	}
}

// connectOutput splits stdout and stderr into lines. The function that it
// returns must be called after the end of the process.
func (p *Process) connectOutput() (flush func()) {
	stdout := &lines{each: p.stdout}
	stderr := &lines{each: func(line string) { p.handleOutput(line, p.c.Stderr) }}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if p.c.Merge {
		p.cmd.Stderr = stdout
	}
	return func() {
		stdout.flush()
		stderr.flush()
	}
}

// run starts the child, sends the result to started, and waits for the end. All
// of this happens on one thread, because Linux ties the child to the thread
// that started it (attributes_linux.go).
func (p *Process) run(started chan<- error, flush func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.cmd.Wait() // the result is in ProcessState
	}
	p.guard.end() // also kills processes that the child started
	flush()
}

// withProgramHint adds a hint to an error if the program does not exist.
func withProgramHint(err error) error {
	var path *fs.PathError
	missing := errors.As(err, &path) && path.Op == "fork/exec" && errors.Is(err, fs.ErrNotExist)
	if errors.Is(err, exec.ErrNotFound) || missing {
		return fmt.Errorf("%w\n  hint: install the program, or name its path", err)
	}
	return err
}

// stdout looks for the ready line and treats all other lines as output.
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

// handleOutput passes a line to each and keeps it if errors should quote it.
func (p *Process) handleOutput(line string, each func(string) bool) {
	line = p.secrets.Text(line)
	if each(line) {
		p.output.add(line)
	}
}
