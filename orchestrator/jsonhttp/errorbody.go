package jsonhttp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// errorBody has the fields of all known error bodies:
//
//   - {"error": {"message": …}} (OpenAI, llama-server, vLLM)
//   - {"error": "…"} (Ollama)
//   - {"detail": …} with a text or a list (FastAPI)
//   - {"message": …} (SGLang, LiteLLM)
//   - {"error_message": …} (SGLang)
//
// Google sends a list with one of them. Some servers put code and type beside the message.
type errorBody struct {
	Error        json.RawMessage `json:"error"`
	ErrorMessage string          `json:"error_message"`
	Message      string          `json:"message"`
	Detail       json.RawMessage `json:"detail"`
	Code         any             `json:"code"` // a string, a number or null
	Type         any             `json:"type"`
}

// readErrorBody fills an Error with the server's message and codes.
func (c *Client) readErrorBody(e *Error, header http.Header, body []byte) {
	defer func() {
		e.Message, e.Code, e.Type = c.Clean(e.Message), c.shortCode(e.Code), c.shortCode(e.Type)
		for i, field := range e.Fields {
			e.Fields[i] = c.shortCode(field)
		}
	}()
	var parsed errorBody
	var list []json.RawMessage
	if json.Unmarshal(body, &list) == nil && len(list) == 1 {
		body = list[0]
	}
	if json.Unmarshal(body, &parsed) != nil {
		e.Message = string(body)
		if looksLikeHTML(header, body) {
			e.Message = "an HTML page: " + title(body)
		}
		return
	}
	var inner struct {
		Message string `json:"message"`
		Code    any    `json:"code"` // a string, a number or null
		Type    any    `json:"type"`
		Param   any    `json:"param"` // the wrong field, as OpenAI names it
	}
	e.Code, e.Type = scalarText(parsed.Code), scalarText(parsed.Type)
	switch {
	case json.Unmarshal(parsed.Error, &inner) == nil && inner.Message != "":
		e.Message, e.Code, e.Type = inner.Message, scalarText(inner.Code), scalarText(inner.Type)
		if param := scalarText(inner.Param); param != "" {
			e.Fields = []string{param}
		}
	case present(parsed.Error):
		e.Message = jsonText(parsed.Error)
	case parsed.ErrorMessage != "":
		e.Message = parsed.ErrorMessage
	case parsed.Message != "":
		e.Message = parsed.Message
	case present(parsed.Detail):
		e.Message, e.Fields = readDetail(parsed.Detail)
	case parsed.Error == nil && parsed.Detail == nil && string(bytes.TrimSpace(body)) != "{}":
		e.Message = string(body)
	}
}

// readDetail reads FastAPI's {"detail": …}: a text, or a list of wrong fields.
func readDetail(raw json.RawMessage) (message string, fields []string) {
	var wrongFields []struct {
		Path    []any  `json:"loc"`
		Message string `json:"msg"`
	}
	if json.Unmarshal(raw, &wrongFields) != nil {
		return jsonText(raw), nil
	}
	var messages []string
	for _, w := range wrongFields {
		elements := make([]string, len(w.Path))
		for i, element := range w.Path {
			elements[i] = fmt.Sprint(element)
		}
		path := strings.Join(elements, ".")
		fields = append(fields, path)
		messages = append(messages, path+": "+w.Message)
	}
	return strings.Join(messages, "; "), fields
}

// ErrorIn returns the message of an {"error": …} in an answer whose status is a success. Some servers report errors
// so.
func ErrorIn(answer []byte) (message string, found bool) {
	var body errorBody
	if json.Unmarshal(answer, &body) != nil || !present(body.Error) {
		return "", false
	}
	return Shorten(safetext.Escape(strings.TrimSpace(jsonText(body.Error)))), true
}

// present reports whether a JSON value is set and not null or an empty string.
func present(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null" && string(raw) != `""`
}

// jsonText returns the text of a JSON string, and the JSON of any other value.
func jsonText(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// scalarText formats a string or a number; nil is empty.
func scalarText(v any) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func looksLikeHTML(header http.Header, body []byte) bool {
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	start := bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 256)]))
	return kind == "text/html" && bytes.HasPrefix(start, []byte("<")) ||
		bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html"))
}

var titleTag = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title>`)

// title returns the title of an HTML page, or the whole page if it has none.
func title(page []byte) string {
	if found := titleTag.FindSubmatch(page); found != nil {
		return strings.TrimSpace(string(found[1]))
	}
	return string(page)
}

const (
	maxShownBytes   = 500     // of a server's text in the text of an error
	maxMessageBytes = 8 << 10 // of a server's text in Error.Message
)

// Clean prepares a server's text for errors and logs. It replaces the key and what controls a terminal, and cuts the
// text after 8 KiB.
func (c *Client) Clean(text string) string {
	text = truncate(strings.TrimSpace(text), 4*maxMessageBytes) // no more work than needed
	return truncate(safetext.Escape(c.secrets.Text(text)), maxMessageBytes)
}

// Redact replaces the key and the URL's password in content with "[key]", for protocols that do not use [Client.Call].
func (c *Client) Redact(content []byte) []byte { return c.secrets.Content(content) }

// shortCode cleans a code or a name in an error body.
func (c *Client) shortCode(code string) string { return truncate(c.Clean(code), 200) }

// Shorten cuts a server's text after 500 bytes, for operators.
func Shorten(text string) string { return truncate(text, maxShownBytes) }

func truncate(text string, maxBytes int) string {
	if len(text) <= maxBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxBytes], "") + " …"
}

// quote quotes the first 120 characters of an answer.
func (c *Client) quote(body []byte) string {
	return fmt.Sprintf("%.120q", c.Clean(string(body[:min(len(body), maxMessageBytes)])))
}

// cleanedError replaces the text of the error it wraps.
type cleanedError struct {
	text string
	err  error
}

func (e *cleanedError) Error() string { return e.text }
func (e *cleanedError) Unwrap() error { return e.err }

// cleanError cleans the text of err, because it may quote the server.
func (c *Client) cleanError(err error) error {
	if err == nil {
		return nil
	}
	if text := c.Clean(err.Error()); text != err.Error() {
		return &cleanedError{text, err}
	}
	return err
}

// maxRetryAfter bounds the header Retry-After.
const maxRetryAfter = 24 * time.Hour

// retryAfter parses the header Retry-After, in seconds or as a date. It returns 0 for an invalid header.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && seconds > 0 { // NaN is not above 0
		return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
