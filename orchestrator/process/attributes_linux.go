package process

import "syscall"

// attributes makes the kernel kill a child when the thread that started it
// ends.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
