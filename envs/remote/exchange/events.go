package exchange

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strings"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// An Event is a server-sent event
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). The default name is
// "message".
type Event struct{ Name, Data string }

// Events sends a request once and passes the events of the answer to see, until see has
// seen the last one. A stream that ends earlier is a lost connection. Timeout is the
// deadline of the whole stream.
func (c *Client) Events(ctx context.Context, r Request, see func(Event) (last bool)) error {
	request := r.http()
	request.Header = maps.Clone(r.Header)
	if request.Header == nil {
		request.Header = map[string]string{}
	}
	request.Header["Accept"] = "text/event-stream"
	return c.Stream(ctx, request, func(header http.Header, stream io.Reader) error {
		kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
		if kind == "text/event-stream" {
			return readEvents(stream, func(e Event) bool {
				return see(Event{e.Name, string(c.Redact([]byte(e.Data)))})
			})
		}
		start, err := io.ReadAll(io.LimitReader(stream, 1<<16))
		if err != nil {
			return err
		}
		message := fmt.Sprintf("the answer is not a stream of events: %.120q", c.Clean(string(start)))
		return &jsonhttp.Error{Kind: jsonhttp.Malformed, Status: http.StatusOK, Message: message}
	})
}

// readEvents parses a stream. A field is a line, and an empty line ends an event. Comments
// are ignored. (Servers send them to keep the connection alive.)
func readEvents(stream io.Reader, see func(Event) (last bool)) error {
	lines := bufio.NewReader(stream)
	var name string
	var data []string
	for {
		line, err := lines.ReadString('\n')
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
