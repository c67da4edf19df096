package ledger

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// sharingViolation is the error of a file that another process has open.
const sharingViolation = syscall.Errno(32)

// lockFile opens a file that no other process can open until this one closes
// it, ends or is killed.
func lockFile(path string) (*os.File, error) {
	name, err := syscall.UTF16PtrFromString(path)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	h, err := syscall.CreateFile(name, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, sharingViolation) {
		return nil, fmt.Errorf("%w\n  hint: wait for it, stop it, or choose another run.name", ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return os.NewFile(uintptr(h), path), nil
}
