package jsonhttp

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestErrorBodiesOfAllServers(t *testing.T) {
	f := func(kind, body string, want Error, shown string) {
		t.Helper()
		e := failure(t, open(t, Config{}, answers(400, kind, body)).Call(t.Context(), Request{Path: "/a", Body: 1}, nil))
		want.Op, want.Status = "POST /a", 400
		if diff := cmp.Diff(want, *e); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
		if text := "POST /a: the server answers 400 Bad Request" + shown; e.Error() != text {
			t.Errorf("%s: %q, want %q", body, e.Error(), text)
		}
	}
	const j = "application/json"
	f(j, `{"error":{"message":"no room","code":400,"type":"full"}}`,
		Error{Message: "no room", Code: "400", Type: "full"}, ": no room")
	f(j, `{"error":{"message":"no room","code":null}}`, Error{Message: "no room"}, ": no room")
	f(j, `{"error":"no room"}`, Error{Message: "no room"}, ": no room")
	f(j, `{"error":{"code":7}}`, Error{Message: `{"code":7}`}, `: {"code":7}`)
	f(j, `{"detail":"Not Found"}`, Error{Message: "Not Found"}, ": Not Found")
	f(j, `{"detail":[{"loc":["body","tools",0],"msg":"missing"},{"loc":["body","id"],"msg":"bad"}]}`,
		Error{Message: "body.tools.0: missing; body.id: bad", Fields: []string{"body.tools.0", "body.id"}},
		": body.tools.0: missing; body.id: bad")
	f(j, `{"detail":{"why":"x"}}`, Error{Message: `{"why":"x"}`}, `: {"why":"x"}`)
	f(j, `{"message":"no credit","error":null}`, Error{Message: "no credit"}, ": no credit")
	f(j, `{"error_message":"no adapter"}`, Error{Message: "no adapter"}, ": no adapter")
	f(j, `{"object":"error","message":"no room","type":"Full","code":400}`,
		Error{Message: "no room", Code: "400", Type: "Full"}, ": no room")
	f(j, `[{"error":{"code":400,"message":"no room"}}]`, Error{Message: "no room", Code: "400"}, ": no room")
	long := strings.Repeat("a reason ", 300) + "at the end"
	f(j, `{"error":"`+long+`"}`, Error{Message: long}, ": "+long)
	f(j, `{"other":1}`, Error{Message: `{"other":1}`}, `: {"other":1}`)
	f(j, `{"error":""}`, Error{}, "")
	f(j, `{}`, Error{}, "")
	f("text/plain", "nothing here\r\n", Error{Message: "nothing here"}, ": nothing here")
	f("text/html", "<html><head><title>413 Too Large</title></head></html>",
		Error{Message: "an HTML page: 413 Too Large"}, ": an HTML page: 413 Too Large")
	f(j, "", Error{}, "")
}

func TestServerTextIsCleanedAndShortened(t *testing.T) {
	f := func(status int, body, want string) {
		t.Helper()
		var out struct{}
		err := open(t, Config{}, answers(status, "application/json", body)).Call(t.Context(), Request{Path: "/a"}, &out)
		text := err.Error()
		if !strings.Contains(text, want) || len(text) > 700 {
			t.Errorf("%d %.80q: %q, want %q", status, body, text, want)
		}
		if strings.Contains(text, key) || strings.ContainsAny(text, "\x1b\x00\u009b") {
			t.Errorf("%d %.80q: %q has the key or a control character in it", status, body, text)
		}
	}
	f(401, `{"error":{"message":"wrong key `+key+`"}}`, "wrong key [key]")
	f(401, "Bearer "+key+" is unknown", "Bearer [key] is unknown")
	f(200, "your key is "+key, "your key is [key]")
	f(200, `["`+key+`"]`, "[key]")
	f(500, "\x1b[31mred\x00\u009b alert", `\u001b[31mred\u0000\u009b alert`)
	f(500, strings.Repeat("é", 1<<20), "ééé …")
	f(200, strings.Repeat("é", 1<<20), `"ééé`)
}

// A server may report an error with a status of success.
func TestErrorsInAnswers(t *testing.T) {
	f := func(body, want string, kind Kind, status int) {
		t.Helper()
		c := open(t, Config{ErrorsInAnswers: true}, answers(200, "application/json", body))
		var out map[string]any
		err := c.Call(t.Context(), Request{Path: "/a", Body: 1}, &out)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", body, err)
			}
			return
		}
		if e := failure(t, err); e.Error() != want || e.Kind != kind || e.Status != status {
			t.Errorf("%s: %v of kind %v with status %d", body, e, e.Kind, e.Status)
		}
	}
	f(`{"error":null,"x":1}`, "", 0, 0)
	f(`{"x":"\"error\""}`, "", 0, 0)
	f(`{"error":"no room","x":1}`, "POST /a: the answer is an error: no room", Refused, 200)
	f(`{"error":{"message":"no room","code":"full"}}`, "POST /a: the answer is an error: no room", Refused, 200)
	f(`{"error":{"message":"busy","code":503}}`, "POST /a: the server answers 503 Service Unavailable: busy", Busy, 503)
	f(`{"error":{"message":"no room","code":400}}`, "POST /a: the server answers 400 Bad Request: no room", Refused, 400)
}

func TestErrorInFindsErrorsInSuccessfulAnswers(t *testing.T) {
	f := func(answer, want string, found bool) {
		t.Helper()
		if message, got := ErrorIn([]byte(answer)); got != found || message != want {
			t.Errorf("%s: %q, %v", answer, message, got)
		}
	}
	f(`{"error":"no \u001b[0mroom"}`, `no \u001b[0mroom`, true)
	f(`{"error":{"code":7}}`, `{"code":7}`, true)
	f(`{"error":null,"x":1}`, "", false)
	f(`[1]`, "", false)
}

func TestTheKeyIsRedacted(t *testing.T) {
	c := connect(t, Config{URL: "http://me:password@host"})
	if got := c.Clean("a " + key + " b, " + c.URL()); got != "a [key] b, http://host" {
		t.Errorf("got %q", got)
	}
}

func TestRetryAfterHasTwoForms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := func(header string, want time.Duration) {
			t.Helper()
			if got := retryAfter(header); got != want {
				t.Errorf("%q: %v, want %v", header, got, want)
			}
		}
		f("", 0)
		f("2", 2*time.Second)
		f("0.5", time.Second/2)
		f("-1", 0)
		f("soon", 0)
		f("NaN", 0)
		f("1e99", maxRetryAfter)
		f(time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), time.Hour)
		f(time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), 0)
	})
}
