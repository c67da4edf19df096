package exchange

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/envs/remote/exchange/exchangetest"
	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

// What may be repeated depends on the request and on what became of it.
func TestWhatMayBeSentAgain(t *testing.T) {
	f := func(r Request, want ...jsonhttp.Kind) {
		t.Helper()
		var got []jsonhttp.Kind
		for kind := jsonhttp.Refused; kind <= jsonhttp.Malformed; kind++ {
			if r.May(&jsonhttp.Error{Kind: kind}) {
				got = append(got, kind)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", r, diff)
		}
	}
	f(Request{}, jsonhttp.Busy, jsonhttp.Unreached)
	f(Request{Repeatable: true}, jsonhttp.Busy, jsonhttp.Unreached, jsonhttp.Lost, jsonhttp.TimedOut)
	f(Request{Prompt: true}, jsonhttp.Busy)
	f(Request{Prompt: true, Repeatable: true}, jsonhttp.Busy)
}

func TestComplaintsAboutAnAction(t *testing.T) {
	f := func(e jsonhttp.Error, want bool) {
		t.Helper()
		e.Message = strings.Repeat("x", 1000)
		message, refused := RefusesAction(&e, "id")
		if refused != want || len(message) > 600 || refused && message == "" {
			t.Errorf("%+v: %v with %d bytes", e, refused, len(message))
		}
	}
	f(jsonhttp.Error{Status: 400}, true)
	f(jsonhttp.Error{Status: 413}, true)
	f(jsonhttp.Error{Status: 422, Fields: []string{"body.action"}}, true)
	f(jsonhttp.Error{Status: 422, Fields: []string{"body.id"}}, false)
	f(jsonhttp.Error{Status: 404}, false)
	f(jsonhttp.Error{}, false)
}

// Neither an answer nor an error has the token in it.
func TestTheTokenStaysSecret(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		_, _ = w.Write([]byte(`{"error":"wrong ` + r.Header.Get("Authorization") + `"}`))
	}))
	defer server.Close()
	c, err := New(Server{URL: server.URL + "/", Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer, err := c.Do(t.Context(), Request{Path: "/x"})
	if err != nil || string(answer) != `{"error":"wrong Bearer [key]"}` {
		t.Errorf("%s, %v", answer, err)
	}
	_, err = c.Do(t.Context(), Request{Path: "/refuse", Body: 1})
	if err == nil || err.Error() != "POST /refuse: the server answers 401 Unauthorized: wrong Bearer [key]" {
		t.Errorf("got %v", err)
	}
}

// A server that is restarted is found again, as long as the patience lasts.
func TestUnreachableServerIsDialledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("1")) })
		dial, up := exchangetest.Serve(t, one), time.Now().Add(time.Minute)
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

func TestBadServers(t *testing.T) {
	for _, s := range []Server{
		{}, {URL: "host:80"}, {URL: "ftp://x"}, {URL: "http://"}, {URL: "http://x", Timeout: -1},
		{URL: "http://x", Patience: -1},
	} {
		if _, err := New(s); err == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
