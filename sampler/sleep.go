package sampler

import "context"

// A Sleeper is a backend whose servers can leave the accelerator's memory to
// the trainer for a while. Both methods wrap [errors.ErrUnsupported] where the
// servers, as launched, cannot.
type Sleeper interface {
	// Sleep waits for what is in flight and gives the memory back. Requests
	// made meanwhile wait for Wake, within their context. Servers that are down
	// are left out.
	Sleep(ctx context.Context) error
	// Wake takes the memory again, loads every published version anew and
	// returns when each has answered as it did before, on one server at least
	// and on every other that can be woken and answers.
	Wake(ctx context.Context) error
}
