package sampler

import "context"

// A Sleeper is a backend whose servers can free the accelerator's memory for the trainer and take it again. Both
// methods wrap [errors.ErrUnsupported] if the servers, as they were launched, cannot do this.
type Sleeper interface {
	// Sleep drains the servers and frees their memory. New requests wait for Wake, within their context. Sleep skips
	// servers that are down.
	Sleep(ctx context.Context) error
	// Wake takes the memory again, reloads every published version and verifies that each one answers as before. It
	// succeeds if at least one server wakes and verifies. Servers that do not wake or do not answer are skipped.
	Wake(ctx context.Context) error
}
