package jsonhttp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

const key = "sk-secret-1"

// open starts a server with the handler answer and returns a client of it.
func open(t *testing.T, cfg Config, answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	cfg.URL = server.URL + "/"
	return connect(t, cfg)
}

func connect(t *testing.T, cfg Config) *Client {
	t.Helper()
	cfg.Server, cfg.Key = "a test server", key
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// answers is a handler that sends the same answer to every request.
func answers(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func failure(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is not an *Error", err)
	}
	return e
}

func TestRequestsCarryTheBodyAndTheKey(t *testing.T) {
	type seen struct{ Method, Path, Body, Kind, Auth, APIKey, Session string }
	var got seen
	c := open(t, Config{KeyHeaders: []string{"X-API-Key"}}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method, r.URL.RequestURI(), string(body), r.Header.Get("Content-Type"), r.Header.Get("Authorization"),
			r.Header.Get("X-API-Key"), r.Header.Get("X-Session-ID")}
		_, _ = io.WriteString(w, `{"n": 7}`)
	})
	f := func(r Request, want seen) {
		t.Helper()
		var answer struct{ N int }
		if err := c.Call(t.Context(), r, &answer); err != nil || answer.N != 7 {
			t.Errorf("%+v: %+v, %v", r, answer, err)
		}
		want.Auth, want.APIKey = "Bearer "+key, key
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", r, diff)
		}
	}
	const kind = "application/json"
	f(Request{Path: "/models"}, seen{Method: "GET", Path: "/models"})
	f(Request{Path: "/sleep?level=1", Body: map[string]int{"a": 1}},
		seen{Method: "POST", Path: "/sleep?level=1", Body: `{"a":1}`, Kind: kind})
	f(Request{Path: "/x", Body: 1, Header: map[string]string{"X-Session-ID": "s"}},
		seen{Method: "POST", Path: "/x", Body: "1", Kind: kind, Session: "s"})
	f(Request{Method: "DELETE", Path: "/x", Body: []byte("[]")},
		seen{Method: "DELETE", Path: "/x", Body: "[]", Kind: kind})
	const binary = "application/octet-stream"
	f(Request{Path: "/blob", Body: strings.NewReader("raw"), Header: map[string]string{"Content-Type": binary}},
		seen{Method: "POST", Path: "/blob", Body: "raw", Kind: binary})
}

func TestCallReturnsOrIgnoresTheRawAnswer(t *testing.T) {
	c := open(t, Config{}, answers(201, "text/plain", "requests 3\n"))
	var text string
	if err := c.Call(t.Context(), Request{Path: "/metrics"}, &text); err != nil || text != "requests 3\n" {
		t.Errorf("%q, %v", text, err)
	}
	if err := c.Call(t.Context(), Request{Path: "/health"}, nil); err != nil {
		t.Error(err)
	}
}

func TestKindsOfStatuses(t *testing.T) {
	f := func(status int, want Kind, retryable bool) {
		t.Helper()
		c := open(t, Config{}, answers(status, "application/json", `{"error":"x"}`))
		err := c.Call(t.Context(), Request{Path: "/a"}, nil)
		e := failure(t, err)
		if e.Kind != want || e.Status != status || Status(err) != status || Retryable(err) != retryable {
			t.Errorf("%d: %+v, retryable %v", status, e, Retryable(err))
		}
	}
	f(300, Refused, false)
	f(400, Refused, false)
	f(404, Refused, false)
	f(408, Lost, true)
	f(429, Busy, true)
	f(500, Failed, false)
	f(501, Failed, false)
	f(502, Lost, true)
	f(503, Busy, true)
	f(504, Lost, true)
}

// Error messages are printable for all error bodies.
func FuzzErrorBodies(f *testing.F) {
	for _, body := range []string{
		`{"error":{"message":"\u001b[31m","code":[],"type":{}}}`, `{"detail":[{"loc":["a",1],"msg":"\u0000"}]}`,
		`{"detail":[]}`, "<html><title>\x9b</title>", `{"error":` + strings.Repeat("[", 99), "\xff" + key, key[:9] +
			"\x00" + key[9:],
	} {
		f.Add(400, "text/html", body)
	}
	c, err := New(Config{URL: "http://host", Key: key})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		e := c.Refusal(status, http.Header{"Content-Type": {kind}}, []byte(body))
		message := strings.NewReplacer("\n", "", "\t", "").Replace(e.Message)
		if strings.Contains(message, key) || strings.ContainsFunc(message, unicode.IsControl) || len(e.Error()) > 700 {
			t.Errorf("%q: got %q", body, e)
		}
	})
}

func TestMalformedAnswers(t *testing.T) {
	f := func(kind, body, want string, truncated bool) {
		t.Helper()
		var out struct{ N int }
		e := failure(t, open(t, Config{}, answers(200, kind, body)).Call(t.Context(), Request{Path: "/a"}, &out))
		if !strings.HasPrefix(e.Error(), "GET /a: "+want) {
			t.Errorf("%q: %v, want %q", body, e, want)
		}
		if e.Kind != Malformed || e.Truncated != truncated || e.Retryable() != truncated {
			t.Errorf("%q: %+v", body, e)
		}
	}
	const j = "application/json"
	f("text/html", "<p>hello", `not an answer of a test server: it is HTML, not JSON: "<p>hello"`, false)
	f(j, "<!DOCTYPE html><x>", `not an answer of a test server: it is HTML, not JSON: "<!DOCTYPE html><x>"`, false)
	f("text/plain", "hello", `not an answer of a test server: it is not JSON: "hello"`, false)
	f(j, `{"n":NaN}`, `not an answer of a test server: it is not JSON: "{\"n\":NaN}"`, false)
	f(j, `{"n":"x"}`,
		`not an answer of a test server: "{\"n\":\"x\"}": N must be a whole number in range, but it is a string`, false)
	f(j, "", "not an answer of a test server: it is empty", true)
	f(j, `{"n":`, `the answer breaks off: "{\"n\":"`, true)
}

// boundedBody is a body that bounds its answer.
type boundedBody struct{ bytes int64 }

func (b boundedBody) MaxAnswer() int64 { return b.bytes }

func TestAnswersAreBounded(t *testing.T) {
	sends := func(n int) http.HandlerFunc {
		return answers(200, "application/json", `"`+strings.Repeat("x", n-2)+`"`)
	}
	var out json.RawMessage
	err := open(t, Config{MaxAnswer: 100}, sends(100)).Call(t.Context(), Request{Path: "/a"}, &out)
	if err != nil || len(out) != 100 {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	e := failure(t, open(t, Config{MaxAnswer: 100}, sends(101)).Call(t.Context(), Request{Path: "/a"}, &out))
	if e.Kind != Malformed || e.Retryable() || e.Error() != "GET /a: the answer is longer than 100 bytes" {
		t.Errorf("got %+v", e)
	}
	small := Request{Path: "/a", Body: boundedBody{100 << 10}}
	if err := open(t, Config{}, sends(100<<10)).Call(t.Context(), small, &out); err != nil {
		t.Error(err)
	}
	e = failure(t, open(t, Config{}, sends(100<<10+1)).Call(t.Context(), small, &out))
	if e.Kind != Malformed || e.Error() != "POST /a: the answer is longer than 102400 bytes" {
		t.Errorf("got %+v", e)
	}
	c := open(t, Config{MaxAnswer: 2 << 20}, sends(3<<20))
	answer, err := c.HTTP().Get(c.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if e := c.Failure(t.Context(), err); len(body) != 2<<20 || e.Error() != "the answer is longer than 2 MiB" {
		t.Errorf("%d bytes, %v", len(body), e)
	}
}

func TestBrokenConnections(t *testing.T) {
	f := func(name string, answer http.HandlerFunc) {
		t.Run(name, func(t *testing.T) {
			e := failure(t, open(t, Config{}, answer).Call(t.Context(), Request{Path: "/a", Body: 1}, nil))
			if e.Kind != Lost || !e.Retryable() || !strings.HasPrefix(e.Error(), "POST /a: the connection was lost: ") {
				t.Errorf("got %+v", e)
			}
		})
	}
	f("no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	f("cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "9")
		_, _ = io.WriteString(w, "half")
	})
	f("reset", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
		}
	})
}

func TestUnreachableServers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	e := failure(t, connect(t, Config{URL: server.URL}).Call(t.Context(), Request{Path: "/a"}, nil))
	if e.Kind != Unreached || !e.Retryable() || !strings.Contains(e.Error(), "GET /a: the server cannot be reached: ") {
		t.Errorf("closed: %+v", e)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	c := connect(t, Config{URL: strings.Replace(plain.URL, "http:", "https:", 1)})
	e = failure(t, c.Call(t.Context(), Request{Path: "/a"}, nil))
	if e.Kind != Malformed || e.Retryable() || !strings.Contains(e.Error(), "the server speaks http, not https") {
		t.Errorf("scheme: %+v", e)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet()
	secure.StartTLS()
	defer secure.Close()
	e = failure(t, connect(t, Config{URL: secure.URL}).Call(t.Context(), Request{Path: "/a"}, nil))
	if e.Kind != Refused || !strings.Contains(e.Error(), "certificate is not trusted") {
		t.Errorf("certificate: %+v", e)
	}
}

func TestTheKeyDoesNotFollowRedirects(t *testing.T) {
	leaked := false
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked = true }))
	defer other.Close()
	elsewhere := strings.Replace(other.URL, "127.0.0.1", "localhost", 1)
	c := open(t, Config{KeyHeaders: []string{"X-API-Key"}}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slash":
			http.Redirect(w, r, "/slash/", http.StatusTemporaryRedirect)
		case "/away":
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		case "/get":
			http.Redirect(w, r, "/slash/", http.StatusFound)
		default:
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(body)
		}
	})
	var n int
	if err := c.Call(t.Context(), Request{Path: "/slash", Body: 5}, &n); err != nil || n != 5 {
		t.Errorf("within the host: %d, %v", n, err)
	}
	for _, path := range []string{"/away", "/get"} {
		e := failure(t, c.Call(t.Context(), Request{Path: path, Body: 5}, &n))
		if e.Kind != Refused || leaked || !strings.Contains(e.Error(), "the server redirects to ") {
			t.Errorf("%s: %+v, leaked %v", path, e, leaked)
		}
	}
}

func TestDeadlinesHaveACause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		c := connect(t, Config{URL: "http://host", Timeout: 10 * time.Second, Transport: hang})
		start := time.Now()
		err := c.Call(t.Context(), Request{Path: "/a"}, nil)
		e := failure(t, err)
		if e.Kind != TimedOut || !e.Retryable() || e.Error() != "GET /a: no answer from http://host within 10s" {
			t.Errorf("got %+v", e)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("ended after %v", took)
		}
		stop := errors.New("the run was stopped")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(stop) })
		if err := c.Call(ctx, Request{Path: "/a"}, nil); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStreams(t *testing.T) {
	read := func(c *Client) (string, error) {
		var got []byte
		err := c.Stream(t.Context(), Request{Path: "/a", Body: 1}, func(_ http.Header, r io.Reader) (err error) {
			got, err = io.ReadAll(r)
			return err
		})
		return string(got), err
	}
	got, err := read(open(t, Config{}, answers(200, "text/event-stream", "data: x\n\n")))
	if err != nil || got != "data: x\n\n" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = read(open(t, Config{}, answers(429, "application/json", `{"detail":"full"}`)))
	if e := failure(t, err); e.Kind != Busy || e.Error() != "POST /a: the server answers 429 Too Many Requests: full" {
		t.Errorf("got %+v", e)
	}
	_, err = read(open(t, Config{MaxAnswer: 5}, answers(200, "text/event-stream", "data: x")))
	if e := failure(t, err); e.Kind != Malformed || e.Error() != "POST /a: the answer is longer than 5 bytes" {
		t.Errorf("got %+v", e)
	}
	_, err = read(open(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	if e := failure(t, err); e.Kind != Lost {
		t.Errorf("got %+v", e)
	}
}

func TestInvalidConfigurationsAreRefused(t *testing.T) {
	f := func(cfg Config) {
		t.Helper()
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
	f(Config{})
	f(Config{URL: "host:80"})
	f(Config{URL: "ftp://x"})
	f(Config{URL: "http://"})
	f(Config{URL: "http://x", Timeout: -1})
	f(Config{URL: "http://x/v1?api-version=1"})
	f(Config{URL: "http://x/v1#a"})
	f(Config{URL: "http://x/?"})
	f(Config{URL: "http://x", Key: "abc\n"})
	f(Config{URL: "http://x", Key: "a\rb"})
}

func TestTheLoopbackIsNotProxied(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://proxy:1")
	for _, url := range []string{"http://127.0.0.1:8000", "http://127.9.9.9", "http://[::1]:80", "http://localhost:80"} {
		r := httptest.NewRequest("GET", url, nil)
		if via, err := proxy(r); via != nil || err != nil {
			t.Errorf("%s goes through %v, %v", url, via, err)
		}
	}
}

func TestConnectionsAreReused(t *testing.T) {
	transport := NewTransport(2)
	c := open(t, Config{Transport: transport}, answers(200, "application/json", "{}"))
	for range 3 {
		if err := c.Call(t.Context(), Request{Path: "/a"}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := transport.Dials(); n != 1 {
		t.Errorf("%d connections for three requests in a row", n)
	}
}
