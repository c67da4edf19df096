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
	// rememberedSessions bounds the sessions that a replica is remembered for.
	rememberedSessions = 8192
	// stickiness is how many more requests in flight than elsewhere a prefix
	// that need not be computed again is worth.
	stickiness = 8
	// waitingAtServer is how many requests may wait at a server.
	waitingAtServer = 8
	// leastLimit is the lowest limit of requests in flight at a replica.
	leastLimit = 1
)

func newQueue(replicas, limit int) *admission.Queue {
	return admission.New(admission.Config{
		Limits: slices.Repeat([]int{limit}, replicas), Sessions: rememberedSessions, Stickiness: stickiness,
	})
}

// acquire waits until a replica admits the request; its place must be
// released. It fails if no replica is healthy during the patience.
func (b *Backend) acquire(ctx context.Context, r admission.Request) (*replica, error) {
	ctx, stop := b.whileHealthy(ctx)
	defer stop()
	place, err := b.queue.Acquire(ctx, r)
	if err != nil {
		return nil, err
	}
	return b.replicas[place.Index], nil
}

// whileHealthy ends ctx when no replica was healthy during the patience.
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

// patienceLeft is how long requests still wait if no replica becomes healthy.
// The mutex is held.
func (b *Backend) patienceLeft() time.Duration {
	if b.noneSince.IsZero() {
		return b.cfg.Patience
	}
	return b.cfg.Patience - time.Since(b.noneSince)
}

// allDown names the replicas and what is wrong with each. The mutex is held.
func (b *Backend) allDown() error {
	var why []string
	for _, r := range b.replicas {
		reason := r.why
		if r.state == asleep {
			reason = errAsleep
		}
		why = append(why, fmt.Sprintf("%s: %v", r.server.URL(), reason))
	}
	return fmt.Errorf("%w: no server answers:\n    %s\n"+
		"  hint: look at the servers' own logs, start them again and continue the run",
		errAllDown, strings.Join(why, "\n    "))
}

var (
	errAllDown = errors.New("all replicas are down")
	errAsleep  = errors.New("it sleeps until Wake")
)

// setLimit derives the replica's limit from what the server says of itself.
func (r *replica) setLimit(l Load) {
	inFlight, before := r.place.Load()
	limit := min(before+waitingAtServer, r.b.cfg.MaxInFlight)
	if l.Waiting > waitingAtServer {
		limit = max(leastLimit, min(before, inFlight-l.Waiting+waitingAtServer))
	}
	if limit == before {
		return
	}
	r.b.cfg.Log.Debug().Str("server", r.server.URL()).Int("limit", limit).
		Int("running", l.Running).Int("waiting", l.Waiting).Msg("admission")
	r.place.SetLimit(limit)
}
