package faultyhttp

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
)

// Faults returns all ways to misbehave. A client must either repeat the request and get
// the right answer, or return an error: it may never take a faulty answer for the right
// one, and never wait beyond its deadline.
func Faults() []Fault {
	return append(append(connections(), statuses()...), bodies()...)
}

// connections are faults of the connection and of HTTP itself.
func connections() []Fault {
	return []Fault{
		{Name: "reset before the answer", Serve: raw("", true)},
		{Name: "closed before the answer", Serve: raw("", false)},
		{Name: "reset after the header", Serve: raw("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", true)},
		{Name: "reset in the body", Serve: half(true)},
		{Name: "closed in the body", Serve: half(false)},
		{Name: "not HTTP", Serve: raw("SSH-2.0-OpenSSH_9.9\r\n", false)},
		{Name: "a status that is no number", Serve: raw("HTTP/1.1 OK\r\n\r\n", false)},
		{Name: "a header without a colon", Serve: raw("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n{}", false)},
		{Name: "two lengths", Serve: raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", false)},
		{Name: "a negative length", Serve: raw("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}", false)},
		{Name: "chunked garbage", Serve: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n{}", false)},
		{Name: "a chunk that is too short",
			Serve: raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}\r\n0\r\n\r\n", false)},
		{Name: "a header of 1 MiB",
			Serve: raw("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n{}", false)},
		{Name: "50,000 headers", Serve: raw("HTTP/1.1 200 OK\r\n"+strings.Repeat("X: x\r\n", 50_000)+"\r\n{}", false)},
		{Name: "an early hint first", Serve: early},
		{Name: "a byte, then nothing", Hangs: true, Serve: slow("{")},
		{Name: "a header, then nothing", Hangs: true, Serve: slow("")},
		{Name: "no answer", Hangs: true, Serve: func(_ http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) {
			<-r.Context().Done()
		}},
	}
}

// statuses are answers with a status that is not the right one.
func statuses() []Fault {
	all := []Fault{
		{Name: "429 with Retry-After", Serve: status(429, "Retry-After: 0.01")},
		{Name: "503 with a date in the past", Serve: status(503, "Retry-After: Mon, 01 Jan 2001 00:00:00 GMT")},
		{Name: "429 with a negative Retry-After", Serve: status(429, "Retry-After: -5")},
		{Name: "429 with a Retry-After of words", Serve: status(429, "Retry-After: soon")},
		{Name: "302 to another host", Hinted: true, Serve: status(302, "Location: http://other.invalid/login")},
		{Name: "307 to another host", Hinted: true, Serve: status(307, "Location: http://other.invalid/")},
		{Name: "301 to a page", Hinted: true, Serve: status(301, "Location: /login")},
		{Name: "302 to a file", Hinted: true, Serve: status(302, "Location: file:///etc/passwd")},
		{Name: "303 without Location", Serve: status(303, "X: x")},
		{Name: "204", Serve: status(204, "X: x")},
		{Name: "401", Hinted: true, Serve: status(401, "X: x")},
		{Name: "403", Hinted: true, Serve: status(403, "X: x")},
	}
	for _, code := range []int{400, 404, 405, 408, 413, 415, 418, 422, 429, 451, 500, 501, 502, 503, 504, 599} {
		all = append(all, Fault{Name: fmt.Sprint(code), Serve: status(code, "X: x")})
	}
	return all
}

// bodies are answers of status 200 whose body is not the right one.
func bodies() []Fault {
	all := []Fault{
		{Name: "a page", Hinted: true, Serve: body("text/html", "<!DOCTYPE html><title>Sign in</title>")},
		{Name: "gzip that was not asked for", Serve: zipped(1)},
		{Name: "a gzip bomb", Serve: zipped(64)},
		{Name: "an endless stream", Serve: endless},
		{Name: "the type text/plain", Serve: typed("text/plain")},
		{Name: "the type text/html", Serve: typed("text/html")},
		{Name: "the right answer twice", Serve: twice},
		{Name: "words in front", Serve: prefixed("data: ")},
		{Name: "a deep list", Serve: body("application/json", strings.Repeat("[", 20_000))},
		{Name: "100,000 keys", Serve: body("application/json", "{"+strings.Repeat(`"a":1,`, 100_000)+`"b":2}`)},
	}
	for _, text := range []string{"", " ", "null", "3", "[]", `"x"`, "{}", "true", `{"a":`, `{"error":"no"}`,
		`{"error":{"message":"no","code":400}}`, `{"error":{"message":3}}`, `{"error":["no"]}`, `{"detail":"no"}`,
		"\xff\xfe{\x00}\x00", "\x00\x00", `{"model":"\ud800"}`, `{"choices":3}`, `{"message":"no"}`} {
		says := strings.Contains(text, `"no"`) || text == "null"
		all = append(all, Fault{Name: fmt.Sprintf("the text %q", text), Refused: says,
			Serve: body("application/json", text)})
	}
	return all
}

type serve = func(http.ResponseWriter, *http.Request, *httptest.ResponseRecorder)

// raw writes bytes to the connection and closes or resets it.
func raw(text string, reset bool) serve {
	return func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) { write(w, text, reset) }
}

func write(w http.ResponseWriter, text string, reset bool) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err) // servers of HTTP/1.1 can be hijacked
	}
	_, _ = connection.Write([]byte(text))
	if tcp, ok := connection.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = connection.Close()
}

// half writes half of the right answer.
func half(reset bool) serve {
	return func(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
		text := right.Body.String()
		write(w, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text[:len(text)/2]), reset)
	}
}

// slow sends a text and then nothing until the client leaves.
func slow(text string) serve {
	return func(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) {
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte(text))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// early sends an interim status before the right answer.
func early(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
	w.WriteHeader(http.StatusEarlyHints)
	_, _ = w.Write(right.Body.Bytes())
}

// status answers with a status and a header.
func status(code int, header string) serve {
	return func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) {
		name, value, _ := strings.Cut(header, ": ")
		w.Header().Set(name, value)
		w.WriteHeader(code)
		if code != http.StatusNoContent {
			_, _ = w.Write([]byte("no"))
		}
	}
}

func body(kind, text string) serve {
	return func(w http.ResponseWriter, _ *http.Request, _ *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write([]byte(text))
	}
}

// zipped sends the right answer, compressed, with spaces of so many MiB in front.
func zipped(mebibytes int) serve {
	return func(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		for range mebibytes {
			_, _ = z.Write(bytes.Repeat([]byte(" "), 1<<20))
		}
		_, _ = z.Write(right.Body.Bytes())
		_ = z.Close()
	}
}

// endless sends one JSON text without an end.
func endless(w http.ResponseWriter, r *http.Request, _ *httptest.ResponseRecorder) {
	_, _ = w.Write([]byte(`{"text":"`))
	for r.Context().Err() == nil {
		if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
			return
		}
	}
}

// typed sends the right answer with another Content-Type.
func typed(kind string) serve {
	return func(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(right.Body.Bytes())
	}
}

func twice(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
	_, _ = w.Write(bytes.Repeat(right.Body.Bytes(), 2))
}

// prefixed sends a text before the right answer.
func prefixed(text string) serve {
	return func(w http.ResponseWriter, _ *http.Request, right *httptest.ResponseRecorder) {
		_, _ = w.Write(append([]byte(text), right.Body.Bytes()...))
	}
}
