//go:build unix

package inspect

import "syscall"

// FreeDisk returns the bytes that a user can still write to the file system of a
// folder; 0: unknown.
func FreeDisk(folder string) int64 {
	var s syscall.Statfs_t
	if err := syscall.Statfs(folder, &s); err != nil {
		return 0
	}
	return int64(s.Bavail) * int64(s.Bsize)
}
