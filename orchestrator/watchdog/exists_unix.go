//go:build unix

package watchdog

import (
	"errors"
	"syscall"
)

// exists reports whether there is a process. It may belong to another user.
func exists(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
