package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/empo2/empo2/sampler/admission"
)

const (
	// maxSessions is how many sessions a replica remembers.
	maxSessions = 8192
	// stickiness is how many more requests may be in flight at the replica with
	// a session's prefix than at the least busy one.
	stickiness = 8
	// maxWaitingAtServer is how many requests may wait in a server's own queue.
	maxWaitingAtServer = 8
	// minLimit is the smallest limit of requests in flight at a replica.
	minLimit = 1
)

func newQueue(replicas, limit int) *admission.Queue {
	return admission.New(admission.Config{
		Limits: slices.Repeat([]int{limit}, replicas), Sessions: maxSessions, Stickiness: stickiness,
	})
}

// acquire waits until a replica admits the request. The caller must release the
// replica's place. acquire fails if no replica is healthy for Config.Patience.
func (b *Backend) acquire(ctx context.Context, r admission.Request) (*admission.Place, error) {
	ctx, stop := b.whileHealthy(ctx)
	defer stop()
	return b.queue.Acquire(ctx, r)
}

// whileHealthy cancels ctx when no replica was healthy for Config.Patience.
func (b *Backend) whileHealthy(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	var timer *time.Timer
	timer = time.AfterFunc(b.cfg.Patience, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if left := b.patienceLeft(); left > 0 {
			timer.Reset(left)
			return
		}
		cancel(b.allDown())
	})
	return ctx, func() { timer.Stop(); cancel(nil) }
}

// patienceLeft returns how long requests still wait for a healthy replica. The
// mutex is held.
func (b *Backend) patienceLeft() time.Duration {
	if b.noneHealthySince.IsZero() {
		return b.cfg.Patience
	}
	return b.cfg.Patience - time.Since(b.noneHealthySince)
}

// allDown is an error with the reason of each replica. The mutex is held.
func (b *Backend) allDown() error {
	var reasons []string
	for _, r := range b.replicas {
		reason := r.why
		if r.state == asleep {
			reason = errAsleep
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", r.server.URL(), reason))
	}
	return fmt.Errorf("%w: no server answers:\n    %s\n"+
		"  hint: read the logs of the servers, start them again and continue the run",
		errAllDown, strings.Join(reasons, "\n    "))
}

var (
	errAllDown = errors.New("all replicas are down")
	errAsleep  = errors.New("the server sleeps until Wake")
)

// setLimit derives the replica's limit from the load that the server reports.
func (r *replica) setLimit(l Load) {
	inFlight, before := r.place.Load()
	limit := min(before+maxWaitingAtServer, r.b.cfg.MaxInFlight)
	if l.Waiting > maxWaitingAtServer {
		limit = max(minLimit, min(before, inFlight-l.Waiting+maxWaitingAtServer))
	}
	if limit == before {
		return
	}
	r.b.cfg.Log.Debug().Str("server", r.server.URL()).Int("limit", limit).
		Int("running", l.Running).Int("waiting", l.Waiting).Msg("limit of requests in flight")
	r.place.SetLimit(limit)
}
