package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func keep(t *testing.T, c Command, b Budget) *Service {
	t.Helper()
	s, err := Keep(t.Context(), c, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestServiceRestartsAfterStatus0(t *testing.T) {
	c := script(t.TempDir(), `echo x >>starts; echo ready
[ $(wc -l <starts) -gt 1 ] || exit 0; while :; do sleep 1000; done`)
	s := keep(t, c, Budget{Restarts: 3, Window: time.Hour})
	until(func() bool { text, _ := os.ReadFile(filepath.Join(c.Dir, "starts")); return len(text) == 4 })
	until(func() bool { return s.Err() == nil && s.PID() != 0 })
	pid := s.PID()
	s.Close()
	s.Close() // again
	if !gone(pid) {
		t.Error("the process still runs after Close")
	}
}

func TestServiceStopsRestartingWhenTheBudgetIsSpent(t *testing.T) {
	c := script(t.TempDir(), `echo ready; read x <go; echo out of luck; exit 3`)
	if err := syscall.Mkfifo(filepath.Join(c.Dir, "go"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Hints = []Hint{{"out of luck", "try again tomorrow"}}
	s := keep(t, c, Budget{Window: time.Hour})
	if err := os.WriteFile(filepath.Join(c.Dir, "go"), []byte("\n"), 0); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return s.Err() != nil && strings.Contains(s.Err().Error(), "given up") })
	for _, says := range []string{"after 0 restarts within 1h", "status 3", "out of luck", "hint: try again tomorrow"} {
		if !strings.Contains(s.Err().Error(), says) {
			t.Errorf("%v, want %q", s.Err(), says)
		}
	}
}

// A restart that fails counts too.
func TestFailedRestartsCount(t *testing.T) {
	c := script(t.TempDir(), `echo x >>starts; [ $(wc -l <starts) -gt 1 ] || echo ready; exit 5`)
	s := keep(t, c, Budget{Restarts: 2, Window: time.Hour, Pause: time.Millisecond})
	until(func() bool { return s.Err() != nil && strings.Contains(s.Err().Error(), "given up after 2 restarts") })
	if got := read(t, c.Dir, "starts"); strings.Count(got, "x") != 3 {
		t.Errorf("%q", got)
	}
}

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Budget{Restarts: 4, Window: 10 * time.Minute, Pause: time.Second}
		began := time.Now()
		for i, want := range []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second} {
			if err := b.Next(t.Context(), nil); err != nil || time.Since(began) != want {
				t.Errorf("restart %d: after %v, want %v; %v", i+1, time.Since(began), want, err)
			}
		}
		if err := b.Next(t.Context(), nil); err == nil || err.Error() != "given up after 4 restarts within 10m0s" {
			t.Errorf("too many: %v", err)
		}
		b = Budget{Restarts: 2, Window: 10 * time.Minute}
		for i, err := range []error{b.Next(t.Context(), nil), later(&b, 6*time.Minute), later(&b, 5*time.Minute)} {
			if err != nil {
				t.Errorf("spread out, restart %d: %v", i+1, err)
			}
		}
		if b.Next(t.Context(), nil) == nil {
			t.Error("a recent restart does not count")
		}
	})
}

func later(b *Budget, after time.Duration) error {
	time.Sleep(after)
	return b.Next(context.Background(), nil)
}

func TestPauseIsBounded(t *testing.T) {
	b := Budget{Pause: time.Second}
	if got := b.pause(1 << 20); got != maxPause {
		t.Errorf("%v", got)
	}
	if got := (&Budget{}).pause(9); got != 0 {
		t.Errorf("without a pause: %v", got)
	}
}
