package agentgym

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// closeTimeout is the deadline of the calls that delete environments.
const closeTimeout = 10 * time.Second

// A pool has the environments that the server has created. It is safe for
// concurrent use.
type pool struct {
	dialect dialect
	client  *exchange.Client
	log     zerolog.Logger

	mu   sync.Mutex
	idle []int64
	lent []int64
}

// take lends an environment. used is true if the environment had episodes before.
//
// A full server of webshop or sqlgym returns an environment that is in use. Two
// episodes must not share one, so such a server counts as busy.
func (p *pool) take(ctx context.Context) (id int64, used bool, err error) {
	r := exchange.Request{Path: p.dialect.prefix + "/create", Body: p.dialect.create}
	err = p.client.Persist(ctx, "POST "+r.Path, r.May, func(ctx context.Context) error {
		if id, used = p.takeIdle(); used {
			return nil
		}
		raw, err := p.client.Try(ctx, r)
		if err != nil {
			return err
		}
		if id, err = p.dialect.created(raw); err != nil {
			return err
		}
		return p.lend(id)
	})
	return id, used, err
}

func (p *pool) takeIdle() (id int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) == 0 {
		return 0, false
	}
	id = p.idle[len(p.idle)-1]
	p.idle = p.idle[:len(p.idle)-1]
	p.lent = append(p.lent, id)
	return id, true
}

func (p *pool) lend(id int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.lent, id) || slices.Contains(p.idle, id) {
		message := fmt.Sprintf("the server is full: it returned environment %d, which is in use", id)
		return &jsonhttp.Error{Kind: jsonhttp.Busy, Message: message}
	}
	p.lent = append(p.lent, id)
	return nil
}

// put returns an environment for the next episode.
func (p *pool) put(id int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent = slices.DeleteFunc(p.lent, func(other int64) bool { return other == id })
	p.idle = append(p.idle, id)
}

// drop deletes an environment in an unknown state.
func (p *pool) drop(id int64) {
	p.mu.Lock()
	p.lent = slices.DeleteFunc(p.lent, func(other int64) bool { return other == id })
	p.mu.Unlock()
	ctx, cancel := p.closing()
	defer cancel()
	p.remove(ctx, id)
}

func (p *pool) close() {
	ctx, cancel := p.closing()
	defer cancel()
	for {
		id, ok := p.takeIdle()
		if !ok {
			return
		}
		p.remove(ctx, id)
	}
}

// closing is the context of the calls that delete environments.
func (p *pool) closing() (context.Context, context.CancelFunc) {
	late := fmt.Errorf("no answer to /close within %v", closeTimeout)
	return context.WithTimeoutCause(context.Background(), closeTimeout, late)
}

// remove deletes an environment on the server. A failure is only logged, as the
// episode is over.
func (p *pool) remove(ctx context.Context, id int64) {
	if !p.dialect.closes {
		return
	}
	body := map[string]any{p.dialect.id: id}
	_, err := p.client.Try(ctx, exchange.Request{Path: p.dialect.prefix + "/close", Body: body})
	if err != nil {
		p.log.Debug().Err(err).Int64("id", id).Msg("agentgym: the environment was not deleted")
	}
}

// created reads the answer to /create.
func (d dialect) created(raw json.RawMessage) (id int64, err error) {
	if message, found := jsonhttp.ErrorIn(raw); found {
		return 0, &jsonhttp.Error{Kind: jsonhttp.Failed, Status: http.StatusOK, Message: message}
	}
	if d.bare {
		var number *int64
		if json.Unmarshal(raw, &number) != nil || number == nil {
			return 0, notInDialect("the answer is not a number: %.120s", raw)
		}
		return *number, nil
	}
	var answer struct{ ID *int64 }
	if json.Unmarshal(raw, &answer) != nil || answer.ID == nil {
		return 0, notInDialect("the answer lacks id: %.120s", raw)
	}
	return *answer.ID, nil
}
