package ors

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

const (
	// pingEvery is the pause between pings, as in the SDK's client
	// (client/_session.py). The SDK's server ends a session after 15 minutes
	// without one.
	pingEvery = 10 * time.Second
	// endTimeout bounds the requests that end a session, together.
	endTimeout = 10 * time.Second
)

// A session is one environment on the server. One goroutine uses it. The session
// has a goroutine of its own that keeps it alive.
type session struct {
	family *Family
	id     string
	stop   context.CancelFunc
	ended  chan struct{} // closed when the goroutine has ended
}

// newSession opens a session. Its id is in an event. According to the SDK's client
// it may also be in the JSON of the last event.
func (f *Family) newSession(ctx context.Context) (*session, error) {
	s := &session{family: f}
	err := f.client.Events(ctx, f.request("/create_session", map[string]any{}, ""), func(e exchange.Event) bool {
		var end struct{ SID string }
		switch {
		case e.Name == "task_id":
			s.id = strings.TrimSpace(e.Data)
		case e.Name == "end" && json.Unmarshal([]byte(e.Data), &end) == nil && end.SID != "":
			s.id = end.SID
		}
		return e.Name == "end" || e.Name == "error"
	})
	if err == nil && s.id == "" {
		err = &jsonhttp.Error{Kind: jsonhttp.Malformed, Message: "the answer to /create_session names no session"}
	}
	if err != nil {
		return nil, err
	}
	ctx, s.stop = context.WithCancel(context.Background())
	s.ended = make(chan struct{})
	go s.keepAlive(ctx)
	return s, nil
}

// keepAlive pings the server while the policy generates. If the session is lost,
// the next request fails.
func (s *session) keepAlive(ctx context.Context) {
	defer close(s.ended)
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.notify(ctx, "/ping")
		}
	}
}

// notify sends a request and ignores the answer.
func (s *session) notify(ctx context.Context, path string) {
	if _, err := s.family.client.Try(ctx, s.family.request(path, map[string]any{}, s.id)); err != nil {
		s.family.config.Log.Debug().Err(err).Str("session", s.id).Str("path", path).Msg("ors: request failed")
	}
}

// begin creates the environment of a task and reads its prompt. The SDK's server
// answers when the environment is ready. OpenReward's server (its package
// openreward, environments/server.py) answers 503 "still starting". Then only the
// prompt is repeated, because a new session would start another environment.
func (s *session) begin(ctx context.Context, at place) (blocks, error) {
	f := s.family
	task := map[string]any{"env_name": f.env, "split": at.split, "index": at.index}
	if _, err := f.client.Try(ctx, f.request("/create", task, s.id)); err != nil {
		return nil, fmt.Errorf("POST /create: %w", err)
	}
	r := f.request(f.path("/prompt"), nil, s.id)
	r.Repeatable = true
	raw, err := f.client.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	var prompt blocks
	if json.Unmarshal(raw, &prompt) != nil {
		message := fmt.Sprintf("the prompt is not a list of blocks: %.120s", raw)
		return nil, &jsonhttp.Error{Kind: jsonhttp.Malformed, Message: message}
	}
	return prompt, nil
}

// result is a RunToolOutput (types.py), or the exception of a tool.
type result struct {
	OK     *bool
	Output *struct {
		Blocks   blocks
		Reward   *float64
		Finished bool
	}
	Error     string
	exception bool // Error is the text of an exception
}

// call calls a tool. A stream that is cut after its task_id is resumed, so the tool
// is not called twice. Timeout is the deadline of the call with all attempts.
func (s *session) call(ctx context.Context, c call) (r result, err error) {
	client, path := s.family.client, s.family.path("/call")
	late := fmt.Errorf("no answer from %s within %v", client.URL(), client.Timeout())
	ctx, cancel := context.WithTimeoutCause(ctx, client.Timeout(), late)
	defer cancel()
	again := func(f *jsonhttp.Error) bool {
		return f.Kind == jsonhttp.Busy || f.Kind == jsonhttp.Unreached || f.Uncertain() && c.TaskID != ""
	}
	err = client.Persist(ctx, "POST "+path, again, func(ctx context.Context) error {
		r, err = s.follow(ctx, path, &c)
		return err
	})
	return r, err
}

// follow reads the stream of a call: the task_id, and the result in pieces.
func (s *session) follow(ctx context.Context, path string, c *call) (r result, err error) {
	resumed := c.TaskID != ""
	var text strings.Builder
	err = s.family.client.Events(ctx, s.family.request(path, *c, s.id), func(e exchange.Event) bool {
		switch e.Name {
		case "task_id":
			c.TaskID = strings.TrimSpace(e.Data)
		case "chunk", "end":
			text.WriteString(e.Data)
		case "error":
			r.Error, r.exception = e.Data, true
		}
		return e.Name == "end" || e.Name == "error"
	})
	switch {
	case err != nil:
		return r, err
	case r.exception && resumed:
		return r, &jsonhttp.Error{Kind: jsonhttp.Failed, Message: r.Error}
	case r.exception:
		return r, nil
	}
	if err := json.Unmarshal([]byte(text.String()), &r); err != nil || r.OK == nil || *r.OK && r.Output == nil {
		message := fmt.Sprintf("the result of the tool is not in the format of ORS: %.120q", text.String())
		return r, &jsonhttp.Error{Kind: jsonhttp.Malformed, Message: message}
	}
	return r, nil
}

// close ends the session, also on the server.
func (s *session) close() {
	s.stop()
	<-s.ended
	late := fmt.Errorf("no answer to the end of the session within %v", endTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), endTimeout, late)
	defer cancel()
	s.notify(ctx, "/delete")
	s.notify(ctx, "/delete_session")
}
