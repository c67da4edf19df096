package exchange

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// A stream that ends without its last event is an unexpected end. Line breaks never
// occur in the names of events.
func FuzzEvents(f *testing.F) {
	f.Add("event: end\ndata: a\ndata: b\n\n")
	f.Add(": ping\r\n\r\ndata:x\n\n")
	f.Add("event\n\ndata\n\n")
	f.Fuzz(func(t *testing.T, stream string) {
		ended := false
		err := readEvents(strings.NewReader(stream), func(e Event) bool {
			if e.Name == "" || strings.ContainsAny(e.Name, "\n") || ended {
				t.Fatalf("%+v after the end: %v", e, ended)
			}
			ended = e.Name == "end"
			return ended
		})
		if ended != (err == nil) || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("the end is seen: %v, error %v", ended, err)
		}
	})
}
