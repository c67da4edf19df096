package pyenv

import (
	"errors"
	"os"
	"syscall"
)

// sharingViolation is the error of a file that another process has open.
const sharingViolation = syscall.Errno(32)

// tryLock opens a file that no other process can then open. It does not wait.
func tryLock(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, sharingViolation) {
		return nil, errLocked
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(h), path), nil
}

// freeBytes is unknown.
func freeBytes(string) (uint64, bool) { return 0, false }
