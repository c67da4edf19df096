package process

import (
	"os/exec"
	"syscall"
)

// A guard knows only the child itself: Windows has neither process groups nor
// SIGTERM. A child that does not heed the end of its stdin outlives us when we
// are killed.
type guard struct{ cmd *exec.Cmd }

func newGuard() (*guard, error) { return &guard{}, nil }

// join keeps Ctrl-C in the terminal from the child.
func (g *guard) join(cmd *exec.Cmd) {
	g.cmd = cmd
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// signal kills the child.
func (g *guard) signal(syscall.Signal) {
	if g.cmd.Process != nil {
		_ = g.cmd.Process.Kill()
	}
}

func (g *guard) end() {}
