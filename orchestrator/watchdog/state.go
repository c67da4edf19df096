package watchdog

import (
	"strings"
	"time"
)

// The states of a run.
const (
	StateRunning     = "running"
	StateDone        = "done"
	StateInterrupted = "interrupted"
	StateClosed      = "closed" // by another command than run, for example eval
	StateFailed      = "failed"
	StateKilled      = "killed"
	StateSilent      = "no news" // the process exists, but it is stopped or hangs
)

// How a run ended, as [Status] records it. A text that begins with
// EndedInterrupted names the signal. Any other text is an error.
const (
	EndedDone        = "done"
	EndedClosed      = "it was closed"
	EndedInterrupted = "interrupted "
)

// State says what the snapshot and the process that wrote it show. A process that wrote
// lately runs, perhaps on another machine.
func (s Status) State(now time.Time) string { return s.state(now, exists) }

func (s Status) state(now time.Time, exists func(pid int) bool) string {
	switch {
	case s.Ended == EndedDone:
		return StateDone
	case s.Ended == EndedClosed:
		return StateClosed
	case strings.HasPrefix(s.Ended, EndedInterrupted):
		return StateInterrupted
	case s.Ended != "":
		return StateFailed
	case now.Sub(s.Updated) <= 5*Interval:
		return StateRunning
	case exists(s.PID):
		return StateSilent
	}
	return StateKilled
}
