package openenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
	"github.com/empo2/empo2/orchestrator/safetext"
)

const (
	// openTimeout is the deadline for opening a connection, and closeTimeout for
	// closing it.
	openTimeout  = 10 * time.Second
	closeTimeout = 3 * time.Second
	// maxMessage is the largest size of a message in bytes.
	maxMessage = 64 << 20
)

// A session is a connection with its environment. One goroutine uses it. The session has
// a goroutine of its own that reads, because servers send pings while the policy
// generates, and close a connection without an answer.
type session struct {
	conn     *websocket.Conn
	messages chan message
	stop     context.CancelFunc
	redact   func([]byte) []byte // removes the key from answers
}

type message struct {
	data []byte
	err  error
}

// dial opens a connection. The server creates the session when it answers the first
// request.
func (f *Family) dial(ctx context.Context) (*session, error) {
	late := fmt.Errorf("no connection to %s within %v", f.client.URL(), openTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, late)
	defer cancel()
	options := &websocket.DialOptions{HTTPClient: f.http, HTTPHeader: f.client.Header()}
	conn, response, err := websocket.Dial(ctx, f.client.Endpoint("/ws"), options)
	if err != nil {
		failure := f.client.Failure(ctx, err)
		if response != nil && failure.Kind == jsonhttp.Lost {
			failure = f.client.Refusal(response.StatusCode, response.Header, nil)
			failure.Message = "no WebSocket at /ws"
		}
		return nil, failure
	}
	conn.SetReadLimit(maxMessage)
	life, stop := context.WithCancel(context.Background())
	s := &session{conn: conn, messages: make(chan message, 1), stop: stop, redact: f.client.Redact}
	go s.listen(life)
	return s, nil
}

// listen reads until the connection ends. Then it closes messages.
func (s *session) listen(ctx context.Context) {
	defer close(s.messages)
	for {
		_, data, err := s.conn.Read(ctx)
		select {
		case s.messages <- message{s.redact(data), err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// reward is a number, true or false, or null.
type reward float64

// UnmarshalJSON implements json.Unmarshaler.
func (r *reward) UnmarshalJSON(raw []byte) error {
	var yes bool
	if json.Unmarshal(raw, &yes) == nil {
		if yes {
			*r = 1
		}
		return nil
	}
	return json.Unmarshal(raw, (*float64)(r))
}

// An answer is a message of the server. Code is the kind of an error.
type answer struct {
	Type string `json:"type"`
	Data struct {
		Observation map[string]any `json:"observation"`
		Reward      reward         `json:"reward"`
		Done        bool           `json:"done"`
		Message     string         `json:"message"`
		Code        string         `json:"code"`
		Errors      []struct {
			At  []any  `json:"loc"`
			Msg string `json:"msg"`
		} `json:"errors"`
	} `json:"data"`
}

// ask sends a request and waits for the answer. A full server sends an answer and closes
// the connection before the first request, so ask reads even if it cannot send.
func (s *session) ask(ctx context.Context, timeout time.Duration, kind string, data any) (answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer to %s within %v", kind, timeout))
	defer cancel()
	question, err := json.Marshal(map[string]any{"type": kind, "data": data})
	if err != nil {
		return answer{}, fmt.Errorf("%s: encode: %w", kind, err)
	}
	sendErr := s.conn.Write(ctx, websocket.MessageText, question)
	select {
	case m, ok := <-s.messages:
		switch {
		case !ok:
			return answer{}, noAnswer(ctx, errors.Join(sendErr, errors.New("the connection has ended")))
		case m.err != nil:
			return answer{}, noAnswer(ctx, m.err)
		}
		return readAnswer(m.data)
	case <-ctx.Done():
		return answer{}, noAnswer(ctx, nil)
	}
}

// noAnswer is the error of a request without an answer.
func noAnswer(ctx context.Context, err error) *jsonhttp.Error {
	if ctx.Err() != nil {
		return &jsonhttp.Error{Kind: jsonhttp.TimedOut, Err: context.Cause(ctx)}
	}
	f := &jsonhttp.Error{Kind: jsonhttp.Lost, Message: "the connection was lost", Err: err}
	switch websocket.CloseStatus(err) {
	case websocket.StatusTryAgainLater, websocket.StatusServiceRestart:
		f.Kind = jsonhttp.Busy
	}
	return f
}

// readAnswer decodes an answer. A failure that only concerns the action is in the answer,
// not in the error.
func readAnswer(data []byte) (answer, error) {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		message := fmt.Sprintf("the answer is not one of OpenEnv: %.120q", data)
		return a, &jsonhttp.Error{Kind: jsonhttp.Malformed, Message: message, Err: safetext.JSONError(err)}
	}
	if a.Type == "observation" && a.Data.Observation != nil {
		return a, nil
	}
	if a.Type != "error" {
		message := fmt.Sprintf("the answer is not one of OpenEnv: %.120q", data)
		return a, &jsonhttp.Error{Kind: jsonhttp.Malformed, Message: message}
	}
	f := &jsonhttp.Error{Kind: jsonhttp.Failed, Message: a.Data.Code + ": " + a.Data.Message}
	switch a.Data.Code {
	case "VALIDATION_ERROR", "EXECUTION_ERROR":
		return a, nil
	case "CAPACITY_REACHED":
		f.Kind = jsonhttp.Busy
		f.Message += "\n  hint: start the server with a larger max_concurrent_envs, or lower env.openenv.concurrency"
	case "INVALID_JSON", "UNKNOWN_TYPE":
		f.Kind = jsonhttp.Malformed
	}
	return a, f
}

// errorText is the text of an error about an action.
func (a answer) errorText() string {
	parts := []string{a.Data.Message}
	for _, e := range a.Data.Errors {
		parts = append(parts, fmt.Sprintf("%v: %s", e.At, e.Msg))
	}
	return strings.Join(parts, "; ")
}

// close ends the session and waits a short time until the server closes the connection,
// because the server has no room for another session before.
func (s *session) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.conn.Write(ctx, websocket.MessageText, []byte(`{"type":"close"}`)) == nil {
		s.drain(ctx)
	}
	s.stop()
	_ = s.conn.CloseNow() // the session is over either way
	s.drain(context.Background())
}

// drain waits until the reader or ctx has ended.
func (s *session) drain(ctx context.Context) {
	for {
		select {
		case _, ok := <-s.messages:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
