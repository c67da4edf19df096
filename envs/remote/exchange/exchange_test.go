package exchange

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
)

// ask makes one prompt exchange with a server that answers status and body.
func ask(t *testing.T, status int, body string) error {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Error("the token was not sent")
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	c, err := New(Server{URL: server.URL + "/", Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Do(t.Context(), Request{Path: "/x", Body: 1, Prompt: true})
	return err
}

func TestKindsOfFailure(t *testing.T) {
	f := func(status int, body string, want Kind, message string) {
		t.Helper()
		err := ask(t, status, body)
		var f *Failure
		if !errors.As(err, &f) || f.Kind != want || f.Message != message || f.Status != status {
			t.Errorf("%d %s: %+v (%v), want kind %d and %q", status, body, f, err, want, message)
		}
		if !strings.HasPrefix(err.Error(), "POST /x: ") {
			t.Errorf("error %q does not name the operation", err)
		}
	}
	f(404, `{"detail":"Not Found"}`, Refused, "Not Found")
	f(422, `{"detail":[{"loc":["body","id"],"msg":"missing"}]}`, Refused, "body.id: missing")
	f(400, `{"error":{"code":7}}`, Refused, `{"code":7}`)
	f(400, `{}`, Refused, "")
	f(500, "Internal Server Error", Broken, "Internal Server Error")
	f(502, "", Cut, "")
	f(200, "<html>", Foreign, `the answer is no JSON: "<html>"`)
	f(200, "", Foreign, `the answer is no JSON: ""`)
	f(200, `{"reward":NaN}`, Foreign, `the answer is no JSON: "{\"reward\":NaN}"`)
	if err := ask(t, 201, "{}"); err != nil {
		t.Errorf("201: %v", err)
	}
	if err := ask(t, 500, strings.Repeat("é", 1<<20)); len(err.Error()) > 700 {
		t.Errorf("a long complaint makes an error of %d bytes", len(err.Error()))
	}
}

// A server that is restarted is found again, as long as the patience lasts.
func TestUnreachableServerIsDialledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial, up := exchangetest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("1")) })), time.Now().Add(time.Minute)
		server := Server{URL: "http://env"}
		server.Dial = exchangetest.DialAfter(up, dial)
		c, err := New(server)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Do(t.Context(), Request{Path: "/", Prompt: true}); err == nil {
			t.Error("a prompt request waited")
		}
		if answer, err := c.Do(t.Context(), Request{Path: "/step", Body: 1}); err != nil || string(answer) != "1" {
			t.Errorf("answer %s, error %v", answer, err)
		}
		if late := time.Since(up); late < 0 || late > 2*lastPause {
			t.Errorf("answered %v after the server came up", late)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	f := func(value string, want time.Duration) {
		t.Helper()
		if got := retryAfter(http.Header{"Retry-After": {value}}); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
	f("", 0)
	f("-1", 0)
	f("NaN", 0)
	f("1.5", 1500*time.Millisecond)
	f("3600", time.Minute)
}

func TestBadServers(t *testing.T) {
	for _, s := range []Server{{}, {URL: "host:80"}, {URL: "ftp://x"}, {URL: "http://"}, {URL: "http://x", Timeout: -1}, {URL: "http://x", Patience: -1}} {
		if _, err := New(s); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
