//go:build !linux

package trainerbridge

import "syscall"

// childAttributes puts a child into its own process group. That it ends with
// us is up to its closing stdin.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
