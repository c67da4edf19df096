package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
)

// An Event is one of a stream of server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). One without
// a name is a "message".
type Event struct{ Name, Data string }

// errLong is the error of a stream that is longer than an answer may be.
var errLong = errors.New("the answer is too long")

// Events makes an exchange once whose answer is a stream of events, and hands
// them to see as they come until it has seen the last one. A stream that ends
// before is a lost connection. The time-out bounds the whole stream.
func (c *Client) Events(ctx context.Context, r Request, see func(Event) (last bool)) error {
	late := fmt.Errorf("no answer from %s within %v", c.URL(), c.server.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, c.server.Timeout, late)
	defer cancel()
	request, err := c.request(ctx, r)
	if err != nil {
		return err
	}
	answer, err := request.SetHeader("Accept", "text/event-stream").SetDoNotParseResponse(true).Send()
	if err != nil {
		return c.Lost(ctx, err)
	}
	defer answer.RawBody().Close()
	kind, _, _ := mime.ParseMediaType(answer.Header().Get("Content-Type"))
	if answer.IsError() || kind != "text/event-stream" {
		body, err := io.ReadAll(io.LimitReader(answer.RawBody(), 1<<16))
		switch {
		case err != nil:
			return c.Lost(ctx, err)
		case answer.IsError():
			return refusal(answer.StatusCode(), answer.Header(), body)
		}
		return &Failure{Kind: Foreign, Status: answer.StatusCode(), Message: fmt.Sprintf("the answer is no stream of events: %.120q", body)}
	}
	err = readEvents(io.LimitReader(answer.RawBody(), maxAnswer), see)
	switch {
	case errors.Is(err, errLong):
		return &Failure{Kind: Foreign, Status: answer.StatusCode(), Message: fmt.Sprintf("the answer is longer than %d MiB", maxAnswer>>20)}
	case err != nil:
		return c.Lost(ctx, err)
	}
	return nil
}

// readEvents parses a stream, in which a field is a line and an empty line
// ends an event. Comments (servers send them as signs of life) are passed over.
func readEvents(stream io.Reader, see func(Event) (last bool)) error {
	lines, size := bufio.NewReader(stream), 0
	var name string
	var data []string
	for {
		line, err := lines.ReadString('\n')
		if size += len(line); size >= maxAnswer {
			return errLong
		}
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		field, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			data = append(data, value)
		}
		if strings.TrimRight(line, "\r\n") != "" || name == "" && data == nil {
			continue
		}
		if name == "" {
			name = "message"
		}
		if see(Event{name, strings.Join(data, "\n")}) {
			return nil
		}
		name, data = "", nil
	}
}
