package pyenv

import (
	"fmt"
	"strings"
	"time"
)

// Stage is what the maker of an environment is doing.
type Stage string

const (
	StageWait    Stage = "wait"    // another process makes the same environment
	StageCreate  Stage = "create"  // the empty environment
	StageInstall Stage = "install" // pip is at work
	StageCheck   Stage = "check"   // the new environment is tried
	StageWarning Stage = "warning" // something that may matter to the user
)

// Event is one line of progress.
type Event struct {
	Stage   Stage
	Text    string        // for a human, no full stop
	Package string        // what pip is at, for example "torch-2.15.0"; may be empty
	Size    string        // of a download, in pip's words, for example "906.4 MB"
	Elapsed time.Duration // since Ensure was called
	// Tick is true if nothing is new but the time.
	Tick bool
}

// String is the event as a line of text.
func (e Event) String() string {
	text := e.Text
	if e.Package != "" {
		text += " " + e.Package
	}
	if e.Size != "" {
		text += " (" + e.Size + ")"
	}
	if e.Stage == StageWarning {
		return "warning: " + text
	}
	if e.Elapsed >= time.Second {
		text += fmt.Sprintf(", %s", e.Elapsed.Round(time.Second))
	}
	return text
}

func (m *maker) tell(e Event) {
	if m.opts.Progress == nil {
		return
	}
	e.Elapsed = time.Since(m.began)
	m.opts.Progress(e)
}

// Error is what kept an environment from being found or made.
type Error struct {
	Op     string   // for example "install packages"
	Err    error    // what went wrong
	Output []string // the last lines of the tool that failed
	Hint   string   // what to do; empty if there is nothing to say
}

// Error is the whole story on several lines.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "python environment: %s: %v", e.Op, e.Err)
	if len(e.Output) > 0 {
		fmt.Fprintf(&b, "\n    %s", strings.Join(e.Output, "\n    "))
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "\n  hint: %s", e.Hint)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
