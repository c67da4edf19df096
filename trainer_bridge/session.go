package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// errForgotten is the cause of calls that end because the trainer does not know the client's session.
var errForgotten = errors.New(
	"the trainer no longer knows the session: it was started again, or heard nothing for minutes",
)

// beatInterval is the time between two heartbeats, and the time that each may
// take. A trainer that hangs is reported after twice that time.
const beatInterval = 5 * time.Second

// beat keeps the session alive and warns when the trainer does not answer,
// whatever it is asked to do. Trainers that do not need it ignore it. If the trainer does not know the session any
// more, all calls end, because the model is gone too.
func (c *Client) beat(ctx context.Context) {
	defer close(c.beating)
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	answered, silent := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.known.Done():
			return
		case <-tick.C:
		}
		err := c.beatOnce(ctx)
		late := err != nil && jsonhttp.Status(err) == 0
		switch p := c.cfg.Process; {
		case ctx.Err() != nil, p != nil && p.Err() != nil: // its end is reported elsewhere
			return
		case late && !silent:
			silent = true
			c.cfg.Log.Warn().Str("for", time.Since(answered).Round(time.Second).String()).
				Msg("the trainer does not answer: its process hangs, is stopped or has ended")
		case !late && silent:
			silent = false
			c.cfg.Log.Warn().Str("for", time.Since(answered).Round(time.Second).String()).Msg("the trainer answers again")
		case err != nil:
			c.cfg.Log.Debug().Err(err).Msg("heartbeat of the trainer's session")
		}
		if !late {
			answered = time.Now()
		}
	}
}

// beatOnce sends one heartbeat. If the answer is that the session has ended, all calls end.
func (c *Client) beatOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, beatInterval,
		fmt.Errorf("session_heartbeat: no answer within %v", beatInterval))
	defer cancel()
	body := map[string]string{"session_id": c.session, "type": "session_heartbeat"}
	err := c.http.Call(ctx, jsonhttp.Request{Path: "/api/v1/session_heartbeat", Body: body}, nil)
	if jsonhttp.Status(err) == http.StatusGone {
		c.forgotten()
	}
	return err
}

// orForgotten returns err, or that the trainer does not know the session if that is why it refused a request.
func (c *Client) orForgotten(ctx context.Context, op string, err error) error {
	var refused *RequestError
	if !errors.As(err, &refused) {
		return err
	}
	if c.known.Err() == nil && refused.Category == CategoryUser {
		_ = c.beatOnce(context.WithoutCancel(ctx)) // the answer is in c.known
	}
	if c.known.Err() != nil { // without the RequestError, which says that a restart does not help
		return fmt.Errorf("%s: %w: %w (%s)", op, ErrUnavailable, errForgotten, refused.Message)
	}
	return err
}
