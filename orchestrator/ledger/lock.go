package ledger

import "io"

// Lock takes an exclusive lock on a file, which it creates. It fails with ErrInUse
// if another process has the lock. The lock ends with Close or with the process.
func Lock(path string) (io.Closer, error) {
	f, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	return f, nil
}
