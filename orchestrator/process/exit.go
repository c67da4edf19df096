package process

import (
	"fmt"
	"strings"
	"syscall"
)

// A [Hint] can match these texts when a process was ended by a signal and wrote
// nothing.
const (
	KilledBySystem     = "killed by the system"
	IllegalInstruction = "illegal instruction"
)

var defaultHints = []Hint{
	{KilledBySystem, "the system killed it, most likely because memory ran out"},
	{IllegalInstruction, "the program needs instructions that this processor does not have"},
}

// An ExitError says how a process ended.
type ExitError struct {
	Name    string
	State   string   // for example "exit status 1" or "signal: killed"
	Stopped bool     // by Stop, Kill or a context
	Output  []string // the last lines that it wrote
	Hint    string   // a remedy; empty: none is known
	// Killed: a signal from outside ended it, SIGKILL or SIGTERM. The same command
	// may succeed.
	Killed bool
	// OutOfMemory: the system killed it, and nothing says that memory did not
	// run out.
	OutOfMemory bool
}

// Error returns the state, the output and the hint on several lines.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("%s ended: %s%s", e.Name, e.State, block(e.Output))
	if e.Hint != "" {
		text += "\n  hint: " + e.Hint
	}
	return text
}

// exitError describes the end of the process. The end of a server is an error
// even with status 0: some servers end with status 0 after an internal error.
func (p *Process) exitError() *ExitError {
	e := &ExitError{Name: p.c.Name, Stopped: p.stopped.Load(), Output: withoutTraceback(p.Tail())}
	if p.cmd.ProcessState == nil {
		e.State = "its end was not observed"
		return e
	}
	e.State = p.cmd.ProcessState.String()
	text := e.Output
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		e.Killed = !e.Stopped && (s.Signal() == syscall.SIGKILL || s.Signal() == syscall.SIGTERM)
		switch {
		case s.Signal() == syscall.SIGILL:
			text = append(text, IllegalInstruction)
		case s.Signal() == syscall.SIGKILL && !e.Stopped && p.mayHaveRunOut():
			text, e.OutOfMemory = append(text, KilledBySystem), true
		}
	}
	e.Hint = HintFor(block(text), p.c.Hints, defaultHints)
	return e
}

// withoutTraceback leaves out the frames of Python's tracebacks. The line that
// names the error stays. The log at level debug has everything.
func withoutTraceback(lines []string) []string {
	var out []string
	inside := false
	for _, line := range lines {
		isFrame := strings.HasPrefix(line, " ") || strings.HasPrefix(line, "Traceback (most recent call last)")
		inside = isFrame && (inside || !strings.HasPrefix(line, " "))
		if !inside {
			out = append(out, line)
		}
	}
	return out
}

// HintFor returns the remedy of the first hint that matches the output, or ""
// if none does.
func HintFor(text string, lists ...[]Hint) string {
	for _, hints := range lists {
		for _, h := range hints {
			if strings.Contains(text, h.Contains) {
				return h.Remedy
			}
		}
	}
	return ""
}
