package jsonhttp

import (
	"encoding/json"
	"net/http"
	"testing"
	"unicode/utf8"
)

// A pause that a server asks for is never negative and never longer than a day.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"1", "0.5", "-1", "inf", "-Inf", "NaN", "1e400", "0x1p40", "1_0",
		"Wed, 21 Oct 2065 07:28:00 GMT",
		"Mon, 01 Jan 0001 00:00:00 GMT", "", " 3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if d := retryAfter(header); d < 0 || d > maxRetryAfter {
			t.Fatalf("%q: %v", header, d)
		}
	})
}

// An answer that does not decode has an error of one kind, with a short text.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":`, "", "<html>", `{"a":1e999}`, `[`, "\xff", `{"a":"b"}`, `{"a":1}{}`} {
		f.Add("application/json", s)
	}
	c, err := New(Config{URL: "http://host", Key: key})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, kind, body string) {
		var out struct{ A int }
		err := json.Unmarshal([]byte(body), &out)
		if err == nil {
			return
		}
		e := c.malformed(Request{Path: "/a"}, http.Header{"Content-Type": {kind}}, []byte(body), err)
		if text := e.Error(); e.Kind != Malformed || len(text) > 1200 || !utf8.ValidString(text) {
			t.Fatalf("%q: %d bytes: %q", body, len(text), text)
		}
	})
}
