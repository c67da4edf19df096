//go:build !linux

package llamacpp

import "syscall"

// childAttributes puts a child into its own process group. Its end with ours
// rests on its stdin alone.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
