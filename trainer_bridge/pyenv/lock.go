package pyenv

import (
	"context"
	"errors"
	"time"
)

// errLocked says that another process has the lock.
var errLocked = errors.New("another process has the lock")

// lock locks a file against other processes. The kernel releases the lock when
// the process ends. If another process has the lock, waiting is called once.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for reported := false; ; reported = true {
		f, err := tryLock(path)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, &Error{Op: "lock " + path, Err: err, Hint: "set EMPO2_CACHE to a directory on a local disk"}
		}
		if !reported {
			waiting()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
