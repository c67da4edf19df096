package jsonhttp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// A server that repeats the key in any form and place: neither errors nor answers have it.
func TestNoTextHasTheKey(t *testing.T) {
	const secret = `sk-live/7+Q"z&9\w`
	quoted, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	f := func(name string, answer http.HandlerFunc) {
		t.Helper()
		server := httptest.NewServer(answer)
		defer server.Close()
		c, err := New(Config{URL: server.URL, Key: secret})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var out any
		err = c.Call(t.Context(), Request{Path: "/a", Body: 1}, &out)
		text := fmt.Sprintf("%v %v", out, err)
		var e *Error
		if errors.As(err, &e) {
			text += fmt.Sprintf(" %+v %v", *e, e.Unwrap())
		}
		if strings.Contains(text, "live/7") || strings.Contains(strings.ToLower(text), "live%2f7") ||
			strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(secret))[:16]) {
			t.Errorf("%s: %s", name, text)
		}
	}
	write := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
		}
	}
	for _, status := range []int{200, 400, 401, 404, 429, 500, 503} {
		f("raw", write(status, "unknown key "+secret))
		f("JSON", write(status, strings.ReplaceAll(`{"error":{"message":KEY,"code":KEY,"type":KEY}}`, "KEY", string(quoted))))
		f("detail", write(status, `{"detail":[{"loc":["header",`+string(quoted)+`],"msg":"bad"}]}`))
		f("URL", write(status, `{"message":"/login?key=`+url.QueryEscape(secret)+`"}`))
		lower := lowerHex.ReplaceAllStringFunc(url.QueryEscape(secret), strings.ToLower)
		f("lower", write(status, `{"message":"/login?key=`+lower+`"}`))
		f("base64", write(status, `{"error":"`+base64.StdEncoding.EncodeToString([]byte(secret))+`"}`))
		f("HTML", write(status, "<html><title>"+secret+"</title>"))
		f("content", write(status, `{"choices":[{"message":{"content":`+string(quoted)+`}}]}`))
		if status != 200 { // the text of an answer is decoded by its reader
			f("every character", write(status, `{"error":"`+unicodeEscapes(secret)+`"}`))
		}
	}
	f("redirect", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://other.example/login?key="+url.QueryEscape(secret), http.StatusFound)
	})
	f("Retry-After", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "live/7")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
}

var lowerHex = regexp.MustCompile(`%[0-9A-F]{2}`)

// unicodeEscapes writes each character as a JSON escape of four hexadecimal digits.
func unicodeEscapes(s string) string {
	var b strings.Builder
	for _, r := range s {
		fmt.Fprintf(&b, `\u%04x`, r)
	}
	return b.String()
}

// The user and the password of a URL are sent, but never shown.
func TestTheURLsUserIsNotShown(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, "%s %s %s", user, password, r.Header.Get("Authorization"))
	}))
	defer server.Close()
	for user, want := range map[string]string{
		"bob:hunter2": "bob [key] Basic [key]", "tok3n-of-bob": "[key]  Basic [key]",
	} {
		at := strings.Replace(server.URL, "//", "//"+user+"@", 1)
		c, err := New(Config{URL: at})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Call(t.Context(), Request{Path: "/a"}, nil)
		if got := strings.TrimRight(ServerText(err), "="); got != want || Status(err) != http.StatusUnauthorized {
			t.Errorf("%s: %q, want %q", user, got, want)
		}
		if c.URL() != server.URL {
			t.Errorf("shown as %s", c.URL())
		}
		c.Close()
	}
	for _, bad := range []string{"ftp://bob:hunter2@host", "bob:hunter2@host", "http://bob:hunter2@ho st"} {
		if _, err := New(Config{URL: bad}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// A request bounds its own answer. The server would send without an end.
func TestARequestBoundsItsAnswer(t *testing.T) {
	endless := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			for piece := []byte(`{"text":"` + strings.Repeat("x", 1<<16)); ; piece = piece[9:] {
				if _, err := w.Write(piece); err != nil || len(piece) < 10 {
					return
				}
			}
		}
	}
	for _, status := range []int{200, 500} {
		c := open(t, Config{}, endless(status))
		err := c.Call(t.Context(), Request{Path: "/a", MaxAnswer: 1 << 17}, nil)
		var e *Error
		if !errors.As(err, &e) || e.Kind != Malformed || e.Message != "the answer is longer than 131072 bytes" {
			t.Errorf("%d: %v", status, err)
		}
	}
	long := open(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
	})
	if err := long.Call(t.Context(), Request{Path: "/a"}, nil); err == nil {
		t.Error("a header of 1 MiB was accepted")
	}
}
