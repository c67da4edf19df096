package llamacpp

import "syscall"

// childAttributes puts a child into its own process group and has the kernel
// kill it when the thread that started it is gone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
