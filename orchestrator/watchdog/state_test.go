package watchdog

import (
	"os"
	"testing"
	"time"
)

func TestStates(t *testing.T) {
	now := time.Now()
	f := func(want, ended string, age time.Duration, alive bool) {
		t.Helper()
		s := Status{PID: 7, Ended: ended, Updated: now.Add(-age)}
		if got := s.state(now, func(int) bool { return alive }); got != want {
			t.Errorf("ended %q, %s old, alive %v: %q, want %q", ended, age, alive, got, want)
		}
	}
	f(StateRunning, "", 3*time.Second, true)
	f(StateRunning, "", 3*time.Second, false) // on another machine
	f(StateSilent, "", time.Minute, true)
	f(StateKilled, "", time.Minute, false)
	f(StateDone, EndedDone, time.Minute, false)
	f(StateClosed, EndedClosed, time.Minute, false)
	f(StateInterrupted, EndedInterrupted+"(SIGTERM)", time.Minute, false)
	f(StateFailed, "the disk is full", time.Minute, false)
	if !exists(os.Getpid()) || exists(1<<30) {
		t.Error("which processes exist is not known")
	}
}
