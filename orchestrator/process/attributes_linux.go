package process

import "syscall"

// attributes has the kernel kill a child when the thread that started it is
// gone.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
