package page

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/ledger"
)

// An interruption that the user asked for is no error.
func TestAnInterruptionIsNoError(t *testing.T) {
	for ended, level := range map[string]string{"interrupted (Ctrl-C)": "info", "interrupted (SIGTERM)": "info",
		"the disk is full": "error", "done": "ok"} {
		h := healthOf(nil, status{PID: 1, Ended: ended}, false)
		if len(h) != 1 || h[0].Level != level || level != "ok" && !strings.HasSuffix(h[0].Text, ended) {
			t.Errorf("%q: %+v, want the level %q", ended, h, level)
		}
	}
}

// A prompt event shows the name of the template and the beginning of its checksum.
func TestPromptEventsAreShort(t *testing.T) {
	sum := strings.Repeat("0a1b2c3d", 8)
	for detail, want := range map[string]string{"my act.txt " + sum: "prompt: my act.txt 0a1b2c3d",
		sum: "prompt: template 0a1b2c3d", "plain sum": "prompt: plain sum"} {
		if got := eventsOf([]ledger.Event{{Kind: "prompt", Detail: detail}})[0].Text; got != want {
			t.Errorf("%q is shown as %q, want %q", detail, got, want)
		}
	}
}

// A change reaches the browser within a second: the first look after eventInterval sends
// it, and looks are lookInterval apart.
func TestAnEventComesWithTheFirstLook(t *testing.T) {
	if eventInterval+lookInterval >= time.Second {
		t.Errorf("an event may come %s after the change", eventInterval+lookInterval)
	}
	dir := filepath.Join(t.TempDir(), "one")
	recorded(t, dir)
	p := New(Options{Roots: []string{dir}})
	defer p.Close()
	w := httptest.NewRecorder()
	s := stream{w: w, control: http.NewResponseController(w), name: "one", dir: dir, page: p}
	for n := 1; n <= 3; n++ {
		changed := time.Unix(int64(n), 0)
		if err := os.Chtimes(filepath.Join(dir, "run.db"), changed, changed); err != nil {
			t.Fatal(err)
		}
		s.sent = time.Time{} // eventInterval has passed
		if err := s.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(w.Body.String(), "event: change"); got != n {
			t.Errorf("%d changes, %d events", n, got)
		}
	}
}
