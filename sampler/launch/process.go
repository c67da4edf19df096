package launch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// guard runs the command and takes its whole process group down with us,
// however we end: when its stdin closes. SIGTERM ends the command, not the
// guard, so that somebody waits for it.
const guard = `exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ cat <&3; kill -KILL 0; } >/dev/null 2>&1 &
exec 3<&-
trap : TERM
wait $server
status=$?
while [ $status -gt 128 ] && kill -0 $server 2>/dev/null; do wait $server; status=$?; done
exit $status`

// A process is in its own process group, so that Ctrl-C in the terminal
// reaches us first.
type process struct {
	cfg    Config
	cmd    *exec.Cmd
	stdin  io.Closer
	output output
	gone   chan struct{} // closed when the command has ended
	killed atomic.Bool   // by us
}

// run starts the process and the goroutine that waits for it.
func run(cfg Config) (*process, error) {
	p := &process{cfg: cfg, gone: make(chan struct{})}
	if _, err := exec.LookPath(cfg.Command[0]); err != nil {
		return nil, fmt.Errorf("%w\n  hint: install the server, or name its program", err)
	}
	p.cmd = exec.Command("/bin/sh", append([]string{"-c", guard, "sh"}, cfg.Command...)...)
	p.cmd.Dir = cfg.Dir
	p.cmd.Env = append(os.Environ(), cfg.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = 2 * time.Second
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	said := func(line string) {
		line = cfg.open(line)
		cfg.Log.Debug().Str("line", line).Msg(cfg.Name)
		p.output.add(line)
	}
	stdout, stderr := &lines{each: said}, &lines{each: said}
	p.cmd.Stdout, p.cmd.Stderr = stdout, stderr
	if err := p.cmd.Start(); err != nil {
		p.stdin.Close()
		return nil, err
	}
	go func() {
		defer close(p.gone)
		p.cmd.Wait()                          // its verdict is in ProcessState
		signalGroup(p.pid(), syscall.SIGKILL) // whatever it has left behind
		stdout.flush()
		stderr.flush()
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) runs() bool {
	select {
	case <-p.gone:
		return false
	default:
		return true
	}
}

func (p *process) kill() {
	p.killed.Store(true)
	signalGroup(p.pid(), syscall.SIGKILL)
}

// stop sends SIGTERM, and SIGKILL after the grace.
func (p *process) stop() {
	signalGroup(p.pid(), syscall.SIGTERM)
	grace := time.NewTimer(p.cfg.Grace)
	defer grace.Stop()
	select {
	case <-p.gone:
		return
	case <-grace.C:
	}
	p.cfg.Log.Warn().Msg(p.cfg.Name + " does not end by itself and is killed")
	p.kill()
	<-p.gone
}

// What a shell makes of the signals that end a process without words.
const (
	byKill = 128 + int(syscall.SIGKILL)
	byTrap = 128 + int(syscall.SIGILL)
)

// err explains the end with what the process wrote.
func (p *process) err() error {
	code := status(p.cmd.ProcessState)
	hint := p.cfg.hint(p.output.said())
	switch {
	case hint != "":
	case code == byKill && !p.killed.Load():
		hint = "the system killed it, most likely for want of memory"
	case code == byTrap:
		hint = "the program needs instructions that this processor does not have"
	}
	text := fmt.Sprintf("it ended with status %d%s", code, p.output.said())
	if hint != "" {
		text += "\n  hint: " + hint
	}
	return errors.New(text)
}

// status is the shell's: 128 and the signal for who was killed.
func status(state *os.ProcessState) int {
	if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return 128 + int(s.Signal())
	}
	return state.ExitCode()
}

// signalGroup signals a process group; one that is gone is fine.
func signalGroup(pid int, sig syscall.Signal) { _ = syscall.Kill(-pid, sig) }
