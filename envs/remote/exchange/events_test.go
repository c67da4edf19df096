package exchange

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/jsonhttp"
)

func TestEventsAreParsed(t *testing.T) {
	f := func(stream string, want ...Event) {
		t.Helper()
		var got []Event
		err := readEvents(strings.NewReader(stream), func(e Event) bool {
			got = append(got, e)
			return false
		})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%q: error %v", stream, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", stream, diff)
		}
	}
	f("event: end\ndata: x\n\n", Event{"end", "x"})
	f("event: end\r\ndata: x\r\n\r\n", Event{"end", "x"})
	f("event:chunk\ndata:  a b \n\n: ping\n\nevent: end\ndata\n\n", Event{"chunk", " a b "}, Event{"end", ""})
	f("data: one\ndata: two: three\nid: 4\n\n", Event{"message", "one\ntwo: three"})
	f("event: cut\ndata: before its end\n")
	f("")
}

func TestStreamsThatAreNone(t *testing.T) {
	f := func(name string, answer http.HandlerFunc, kind jsonhttp.Kind, want string) {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			c, err := New(Server{URL: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := Request{Path: "/call", Body: map[string]any{}}
			err = c.Events(context.Background(), r, func(Event) bool { return true })
			var failure *jsonhttp.Error
			if !errors.As(err, &failure) || failure.Kind != kind || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want kind %v with %q", err, kind, want)
			}
		})
	}
	f("refusal", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"detail": "full"}`)
	}, jsonhttp.Busy, "full")
	f("other content", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"error": "x"}`)
	}, jsonhttp.Malformed, "not a stream of events")
	f("no last event", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, ": ping\r\n\r\nevent: half")
	}, jsonhttp.Lost, "connection was lost")
	f("endless", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		line := []byte(strings.Repeat("x", 1<<20))
		for range maxAnswer>>20 + 1 {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}, jsonhttp.Malformed, "longer than 64 MiB")
}
