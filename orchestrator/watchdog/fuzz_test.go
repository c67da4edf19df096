package watchdog

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A status file is read, or refused. What is read can be described and written again.
func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(`{"pid": 1, "started": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "phase": {"name": "x",
		"since": "2026-01-01T00:00:00Z", "eta_s": 3}, "inflight": [{"what": "start", "limit": 9, "others": 2}],
		"stopped": [{"name": "trainer", "pid": 7}]}`))
	f.Add([]byte(`{"pid": "x"}`))
	f.Add([]byte(`{"updated": "0000-00-00"}`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseStatus(text)
		if err != nil {
			return
		}
		if len(s.Lines()) == 0 {
			t.Fatal("no text")
		}
		again, err := json.Marshal(s)
		if err != nil {
			return // for example a year above 9999
		}
		if second, err := ParseStatus(again); err != nil || !cmp.Equal(s.Lines(), second.Lines()) {
			t.Fatalf("%v: %q, then %q", err, s.Lines(), second.Lines())
		}
	})
}
