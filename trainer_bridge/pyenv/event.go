package pyenv

import (
	"fmt"
	"strings"
	"time"
)

// Stage is a part of the work on an environment.
type Stage string

const (
	StageWait    Stage = "wait"    // another process creates the same environment
	StageCreate  Stage = "create"  // the empty environment
	StageInstall Stage = "install" // pip installs packages
	StageCheck   Stage = "check"   // the new environment is tested
	StageWarning Stage = "warning" // a possible problem for the user
)

// Event is one line of progress.
type Event struct {
	Stage   Stage
	Text    string        // for the user, without a full stop
	Package string        // the package that pip works on, for example "torch-2.15.0"; may be empty
	Size    string        // size of a download as pip prints it, for example "906.4 MB"
	Elapsed time.Duration // since Ensure was called
	// Tick marks an event that only updates Elapsed.
	Tick bool
}

// String returns the event as a line of text.
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

func (m *maker) emit(e Event) {
	if m.opts.Progress == nil {
		return
	}
	e.Elapsed = time.Since(m.began)
	m.opts.Progress(e)
}

// Error is a failure to find or to create an environment.
type Error struct {
	Op     string   // for example "install packages"
	Err    error    // the cause
	Output []string // the last lines of the tool that failed
	Hint   string   // the remedy; empty if none is known
}

// Error returns operation, cause, output and hint on several lines.
func (e *Error) Error() string {
	var b strings.Builder
	what := e.Err.Error()
	if e.Hint != "" { // it replaces the hint of Err
		what, _, _ = strings.Cut(what, "\n  hint: ")
	}
	fmt.Fprintf(&b, "python environment: %s: %s", e.Op, what)
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
