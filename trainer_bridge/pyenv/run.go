package pyenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// command prepares a child in its own process group, which is interrupted as
// a whole when ctx ends and killed if that does not help.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return signalGroup(cmd, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = environment(os.Environ())
	return cmd
}

// environment is ours without what would mix another Python's modules into
// the child's, and with pip told not to install for the user.
func environment(ours []string) []string {
	var env []string
	for _, v := range ours {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX":
		default:
			env = append(env, v)
		}
	}
	return append(env, "PIP_USER=0", "PYTHONUNBUFFERED=1")
}

func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error {
	err := syscall.Kill(-cmd.Process.Pid, sig)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// stream runs a tool, hands its lines on (each may be nil) and returns the
// last ones.
func stream(ctx context.Context, timeout time.Duration, each func(string), name string, args ...string) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done within %v", timeout))
	defer cancel()
	cmd := command(ctx, name, args...)
	out := &tail{each: each}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		signalGroup(cmd, syscall.SIGKILL) // whoever did not heed the interrupt
	}
	out.flush()
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.lines, err
}

// tail is an io.Writer that splits lines and keeps the last ones. Stdout and
// stderr share one, so exec writes to it from one goroutine.
type tail struct {
	each  func(string)
	rest  []byte
	lines []string
}

const kept = 15

func (t *tail) Write(b []byte) (int, error) {
	t.rest = append(t.rest, b...)
	for {
		i := bytes.IndexByte(t.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		t.add(string(t.rest[:i]))
		t.rest = t.rest[i+1:]
	}
}

func (t *tail) flush() {
	t.add(string(t.rest))
	t.rest = nil
}

func (t *tail) add(line string) {
	line = strings.TrimRight(line, " \r")
	if line == "" {
		return
	}
	t.lines = append(t.lines, line)
	if len(t.lines) > kept {
		t.lines = t.lines[len(t.lines)-kept:]
	}
	if t.each != nil {
		t.each(line)
	}
}
