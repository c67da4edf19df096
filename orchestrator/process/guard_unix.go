//go:build unix

package process

import (
	"os"
	"os/exec"
	"syscall"
)

// A guard is a shell that leads the child's process group. It kills the group
// when its stdin ends. The kernel closes that pipe when empo2 ends or is
// killed. The guard starts before the child, so every child has one. On Linux
// the kernel also kills the child directly (attributes_linux.go).
//
// The guard ignores SIGTERM and SIGINT, which we send to the whole group. We
// wait for the guard only after the child has ended. Until then no other group
// can get its number.
type guard struct {
	cmd   *exec.Cmd
	stdin *os.File // our end of the pipe; the guard acts when it is closed
}

const guardScript = `trap '' HUP INT TERM; read -r line; kill -KILL 0`

func newGuard() (*guard, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd := exec.Command("/bin/sh", "-c", guardScript)
	cmd.Dir, cmd.Env, cmd.Stdin = "/", []string{}, theirs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	return &guard{cmd, ours}, nil
}

// join adds a command, which is not started yet, to the group.
func (g *guard) join(cmd *exec.Cmd) {
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pgid = true, g.cmd.Process.Pid
}

// signal signals every process of the group, the guard itself included.
func (g *guard) signal(s syscall.Signal) { _ = syscall.Kill(-g.cmd.Process.Pid, s) }

// end kills the group and waits for the guard.
func (g *guard) end() {
	g.signal(syscall.SIGKILL)
	g.stdin.Close()
	g.cmd.Wait() // its error says only that it was killed
}
