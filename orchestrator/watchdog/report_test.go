package watchdog

import (
	"slices"
	"testing"
	"time"
)

func TestLinesOfAStatus(t *testing.T) {
	now := time.Now()
	f := func(finished int64, want string) {
		t.Helper()
		s := Status{Updated: now, Progress: now.Add(-3 * time.Second), Finished: finished, Doing: "start",
			Phase: &PhaseStatus{Phase: Phase{Name: PhaseStart, Detail: "environment", Since: now}}}
		if lines := s.Lines(); !slices.Contains(lines, want) || !slices.Contains(lines, "doing: start: environment") {
			t.Errorf("%q, want %q", lines, want)
		}
	}
	f(0, "progress: no call has ended for 3s")
	f(1, "progress: 1 call has ended, 3s before")
	f(2, "progress: 2 calls have ended, the last one 3s before")
}
