package jsonhttp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// errorBody has the fields of all the error bodies that servers are known to
// send: {"error": {"message": …}} (OpenAI, llama-server, vLLM), {"error": "…"}
// (Ollama), {"detail": …} with a text or a list (FastAPI), {"message": …}
// (SGLang, LiteLLM) and {"error_message": …}.
type errorBody struct {
	Error        json.RawMessage `json:"error"`
	ErrorMessage string          `json:"error_message"`
	Message      string          `json:"message"`
	Detail       json.RawMessage `json:"detail"`
}

// complaint reads an error body.
func (c *Client) complaint(e *Error, header http.Header, body []byte) {
	defer func() { e.Message = c.Clean(e.Message) }()
	var said errorBody
	if json.Unmarshal(body, &said) != nil {
		e.Message = string(body)
		if looksLikeHTML(header, body) {
			e.Message = "an HTML page: " + title(body)
		}
		return
	}
	var inner struct {
		Message string `json:"message"`
		Code    any    `json:"code"` // a text, a number or null
		Type    any    `json:"type"`
	}
	switch {
	case json.Unmarshal(said.Error, &inner) == nil && inner.Message != "":
		e.Message, e.Code, e.Type = inner.Message, word(inner.Code), word(inner.Type)
	case present(said.Error):
		e.Message = text(said.Error)
	case said.ErrorMessage != "":
		e.Message = said.ErrorMessage
	case said.Message != "":
		e.Message = said.Message
	case present(said.Detail):
		e.Message, e.Fields = detail(said.Detail)
	case said.Error == nil && said.Detail == nil && string(bytes.TrimSpace(body)) != "{}":
		e.Message = string(body)
	}
}

// detail reads FastAPI's {"detail": …}: a text, or a list of wrong fields.
func detail(raw json.RawMessage) (message string, fields []string) {
	var wrong []struct {
		At  []any  `json:"loc"`
		Msg string `json:"msg"`
	}
	if json.Unmarshal(raw, &wrong) != nil {
		return text(raw), nil
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
	return strings.Join(parts, "; "), fields
}

// ErrorIn finds an {"error": …} in an answer with a good status.
func ErrorIn(answer []byte) (message string, found bool) {
	var body errorBody
	if json.Unmarshal(answer, &body) != nil || !present(body.Error) {
		return "", false
	}
	return Shorten(printable(text(body.Error))), true
}

func present(raw json.RawMessage) bool {
	return len(raw) > 0 && string(raw) != "null" && string(raw) != `""`
}

// text is a JSON string's text, or the JSON of anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

// word is a text or a number as text.
func word(v any) string {
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

// title is the title of a page, or its beginning.
func title(page []byte) string {
	if found := titleTag.FindSubmatch(page); found != nil {
		return strings.TrimSpace(string(found[1]))
	}
	return string(page)
}

const (
	shown = 500     // bytes of a server's text in an error
	kept  = 8 << 10 // bytes of a server's text in Message
)

// Clean prepares a server's text for errors and logs: without the key, without
// control characters except line ends and tabs, and not longer than 8 KiB.
func (c *Client) Clean(text string) string {
	return cut(string(c.Redact([]byte(printable(text)))), kept)
}

// Redact replaces the key and the URL's password in a server's text.
func (c *Client) Redact(text []byte) []byte {
	for _, secret := range c.secrets {
		text = bytes.ReplaceAll(text, secret, []byte("[key]"))
	}
	return text
}

// secrets are those of at least four bytes: the letters of a shorter one are in
// many words.
func secrets(key string, base *url.URL) (found [][]byte) {
	password, _ := base.User.Password()
	for _, secret := range []string{key, password} {
		if len(secret) > 3 {
			found = append(found, []byte(secret))
		}
	}
	return found
}

// printable is a text without control characters except line ends and tabs.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(text), "\uFFFD"))
}

// Shorten keeps what an operator wants to read of a server's text.
func Shorten(text string) string { return cut(text, shown) }

func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + " …"
}

// quote quotes the beginning of an answer.
func (c *Client) quote(body []byte) string {
	return fmt.Sprintf("%.120q", c.Clean(string(body[:min(len(body), kept)])))
}

// cleanedError has another text than the error it wraps.
type cleanedError struct {
	text string
	err  error
}

func (e *cleanedError) Error() string { return e.text }
func (e *cleanedError) Unwrap() error { return e.err }

// cleanError cleans the text of err, which may quote the server.
func (c *Client) cleanError(err error) error {
	if err == nil {
		return nil
	}
	if text := c.Clean(err.Error()); text != err.Error() {
		return &cleanedError{text, err}
	}
	return err
}

// longestAfter bounds what a server may ask for in Retry-After.
const longestAfter = 24 * time.Hour

// retryAfter reads the header Retry-After, in seconds or as a date.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseFloat(header, 64); err == nil && seconds > 0 {
		return time.Duration(min(seconds, longestAfter.Seconds()) * float64(time.Second))
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(time.Until(at), 0), longestAfter)
	}
	return 0
}
