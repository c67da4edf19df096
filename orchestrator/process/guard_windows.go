package process

import (
	"os/exec"
	"syscall"
)

// A guard knows only the child itself, because Windows has neither process
// groups nor SIGTERM. If empo2 is killed, only children that end with their
// stdin end too.
type guard struct{ cmd *exec.Cmd }

func newGuard() (*guard, error) { return &guard{}, nil }

// join makes sure that Ctrl-C in the terminal does not reach the child.
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
