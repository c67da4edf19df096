package trainerbridge

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnavailable is wrapped by errors of calls that got no answer. The
	// trainer died, cannot be reached, or was too slow. The work may have been
	// done. Start the trainer again if it died, [Dial] it, and restore a
	// checkpoint with [Client.LoadWeights].
	ErrUnavailable = errors.New("trainer is not available")

	// ErrUncertain is returned after a call that changes gradients or weights
	// got no complete answer. Forward, ForwardBackward, OptimStep and both saves
	// then fail, because they could train something twice. A successful
	// [Client.LoadWeights] clears it.
	ErrUncertain = errors.New("the trainer's weights are unknown after a call without an answer")
)

// Category says who caused the error of a request, according to the trainer.
type Category string

const (
	CategoryUser    Category = "user"    // the request is invalid
	CategoryServer  Category = "server"  // the trainer failed
	CategoryUnknown Category = "unknown" // the trainer does not say
)

// RequestError is the trainer's error for a request. A repetition of the request
// would fail too.
type RequestError struct {
	Op       string   // protocol name of the call, for example "forward_backward"
	Category Category // never empty
	Message  string   // the trainer's text
	Status   int      // HTTP status if it is not 200, else 0
}

// Error names the call, the category and the trainer's message.
func (e *RequestError) Error() string {
	text := fmt.Sprintf("%s: refused by the trainer (%s): %s", e.Op, e.Category, e.Message)
	switch e.Status {
	case 401, 403:
		text += "\n  hint: the bearer token is not the one that the trainer was started with"
	case 404:
		text += "\n  hint: is this the address of a trainer that speaks the Tinker protocol?"
	}
	return text
}

// ExitError says how a trainer process ended unexpectedly. It wraps
// [ErrUnavailable].
type ExitError struct {
	State  string   // for example "exit status 1" or "signal: killed"
	Fatal  string   // the error that the trainer reported, if any
	Hint   string   // the remedy that the trainer reported, if any
	Output []string // the last lines of its output

	stopped bool // by Close
}

// Error returns the trainer's error with its hint. If the trainer reported no
// error, it returns the last lines of stderr.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "trainer process ended (%s)", e.State)
	if e.Fatal != "" {
		fmt.Fprintf(&b, ": %s", e.Fatal)
	} else if len(e.Output) > 0 {
		fmt.Fprintf(&b, "; its last output:\n    %s", strings.Join(lastOf(e.Output, 12), "\n    "))
	}
	switch {
	case e.Hint != "":
		fmt.Fprintf(&b, "\n  hint: %s", e.Hint)
	case e.State == "signal: killed":
		b.WriteString("\n  hint: the kernel kills a process when memory runs out; use a smaller batch, rank or model")
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrUnavailable) true.
func (e *ExitError) Unwrap() error { return ErrUnavailable }

func lastOf(lines []string, n int) []string {
	return lines[max(0, len(lines)-n):]
}
