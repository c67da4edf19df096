package exchange

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind says what may be done about a failure.
type Kind int

const (
	// Refused: the server understood the request and will not do it.
	Refused Kind = iota
	// Busy: the server did nothing, because it is full; later it may.
	Busy
	// Unreached: no connection; nothing was sent.
	Unreached
	// Cut: nobody knows whether the server acted upon the request.
	Cut
	// Broken: the server failed while it acted upon the request.
	Broken
	// Foreign: the answer is not one of this protocol.
	Foreign
)

// A Failure is an exchange that came to nothing.
type Failure struct {
	Kind    Kind
	Status  int      // of HTTP; 0: there was no answer
	Message string   // the server's words, or ours where it had none
	Fields  []string // of the request that are wrong, such as "body.action", where the server names them
	After   time.Duration
	Err     error // what lies beneath; may be nil
}

// Error implements error.
func (f *Failure) Error() string {
	var b strings.Builder
	if f.Status >= 300 {
		fmt.Fprintf(&b, "the server answers %d %s", f.Status, http.StatusText(f.Status))
	}
	for _, part := range []any{f.Message, f.Err} {
		if part == nil || part == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(": ")
		}
		fmt.Fprint(&b, part)
	}
	return b.String()
}

// Unwrap gives access to what lies beneath.
func (f *Failure) Unwrap() error { return f.Err }

// Names reports whether the server complains of one field of the body.
func (f *Failure) Names(field string) bool {
	for _, at := range f.Fields {
		if at == field || strings.HasSuffix(at, "."+field) {
			return true
		}
	}
	return false
}

// RefusesAction reports whether a step was answered with a complaint about its
// action: a 400, 413 or 422 that does not name id, the request's other field.
func (f *Failure) RefusesAction(id string) bool {
	switch f.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return !f.Names(id)
	}
	return false
}

// refusal reads an answer with an error status.
func refusal(status int, header http.Header, body []byte) *Failure {
	f := &Failure{Kind: Refused, Status: status, After: retryAfter(header)}
	f.Message, f.Fields = complaint(body)
	switch s := f.Status; {
	case s == http.StatusTooManyRequests || s == http.StatusServiceUnavailable:
		f.Kind = Busy
	case s == http.StatusBadGateway || s == http.StatusGatewayTimeout || s == http.StatusRequestTimeout:
		f.Kind = Cut
	case s >= 500:
		f.Kind = Broken
	}
	return f
}

// complaint finds the words of an error body: {"error": …}, or FastAPI's
// {"detail": …} with a text or a list of wrong fields.
func complaint(body []byte) (message string, fields []string) {
	var answer struct {
		Error  json.RawMessage
		Detail json.RawMessage
	}
	var wrong []struct {
		At  []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return shorten(string(body)), nil
	}
	if answer.Error != nil {
		return text(answer.Error), nil
	}
	if json.Unmarshal(answer.Detail, &wrong) != nil {
		return text(answer.Detail), nil
	}
	var parts []string
	for _, w := range wrong {
		path := make([]string, len(w.At))
		for i, element := range w.At {
			path[i] = fmt.Sprint(element)
		}
		fields = append(fields, strings.Join(path, "."))
		parts = append(parts, strings.Join(path, ".")+": "+w.Msg)
	}
	return shorten(strings.Join(parts, "; ")), fields
}

// text is a JSON string's text, or the JSON of anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return shorten(s)
	}
	return shorten(string(raw))
}

// shorten keeps what an operator wants to read of a server's words.
func shorten(s string) string {
	const most = 500
	s = strings.ToValidUTF8(strings.TrimSpace(s), "�")
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " …"
}

// ErrorIn finds an {"error": …} in an answer that claims to be a good one.
func ErrorIn(answer json.RawMessage) (message string, found bool) {
	var body struct {
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(answer, &body) != nil || body.Error == nil || string(body.Error) == "null" {
		return "", false
	}
	return text(body.Error), true
}

// retryAfter is the pause that a server asks for, a minute at most.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.ParseFloat(h.Get("Retry-After"), 64)
	if err != nil || !(seconds > 0) {
		return 0
	}
	return time.Duration(min(seconds, 60) * float64(time.Second))
}
