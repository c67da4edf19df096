package pyenv

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// lock locks a file against other processes. The kernel releases the lock when
// the process ends. If another process has the lock, waiting is called once.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, &Error{Op: "lock the environment", Err: err}
	}
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, &Error{Op: "lock " + path, Err: err, Hint: "set EMPO2_CACHE to a directory on a local disk"}
		}
		if !told {
			waiting()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}
