//go:build unix

package process

import (
	"os"
	"os/exec"
	"syscall"
)

// A guard is a shell that leads the process group which the child joins. It
// kills the group when its stdin ends, which the kernel does for us however we
// end. It is there before the child, so no child is ever without one. On Linux
// the kernel also kills the child itself.
//
// The guard ignores the signals that ask the group to end in order. It is not
// waited for before the child has ended, so the group's number stays ours.
type guard struct {
	cmd   *exec.Cmd
	alive *os.File // our end of its stdin
}

const guardScript = `trap '' HUP INT TERM; read -r line; kill -KILL 0`

func newGuard() (*guard, error) {
	stdin, alive, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	cmd := exec.Command("/bin/sh", "-c", guardScript)
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{}, stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		alive.Close()
		return nil, err
	}
	return &guard{cmd, alive}, nil
}

// join makes a command a member of the group when it is started.
func (g *guard) join(cmd *exec.Cmd) {
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pgid = true, g.cmd.Process.Pid
}

// signal signals every process of the group, the guard itself included.
func (g *guard) signal(s syscall.Signal) { _ = syscall.Kill(-g.cmd.Process.Pid, s) }

// end kills the group and returns when the guard is gone.
func (g *guard) end() {
	g.signal(syscall.SIGKILL)
	g.alive.Close()
	g.cmd.Wait() // killed
}
