package trainerbridge

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrUnavailable is wrapped by errors of calls that got no answer: the
	// trainer died, cannot be reached, or was too slow. Whether the work was
	// done is not known. Start the trainer again if it died, [Dial] it, and
	// restore a checkpoint with [Client.LoadWeights].
	ErrUnavailable = errors.New("trainer is not available")

	// ErrUncertain is returned by Forward, ForwardBackward, OptimStep and both
	// saves after a call that changes gradients or weights ended without a
	// full answer: continuing could train something twice. A successful
	// [Client.LoadWeights] clears it.
	ErrUncertain = errors.New("weights of the trainer are not known after a call without an answer")
)

// Category says whose fault a refused request is, in the trainer's words.
type Category string

const (
	CategoryUser    Category = "user"    // the request cannot be served as it is
	CategoryServer  Category = "server"  // the trainer went wrong
	CategoryUnknown Category = "unknown" // the trainer does not say
)

// RequestError is the trainer's own refusal of a request. It is final: the
// same request would be refused again.
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

// ExitError says how a trainer process ended that was not told to. It wraps
// [ErrUnavailable].
type ExitError struct {
	State  string   // for example "exit status 1" or "signal: killed"
	Fatal  string   // the trainer's own last word, if it had one
	Hint   string   // the remedy that the trainer names, if any
	Output []string // the last lines of its output

	stopped bool // by us
}

// Error is the fatal message with its hint or, without one, the last lines of
// stderr.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "trainer process ended (%s)", e.State)
	if e.Fatal != "" {
		fmt.Fprintf(&b, ": %s", e.Fatal)
	} else if len(e.Output) > 0 {
		fmt.Fprintf(&b, "; its last words:\n    %s", strings.Join(lastOf(e.Output, 12), "\n    "))
	}
	switch {
	case e.Hint != "":
		fmt.Fprintf(&b, "\n  hint: %s", e.Hint)
	case e.State == "signal: killed":
		b.WriteString("\n  hint: the kernel kills a process when memory runs out: a smaller batch, rank or model needs less")
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrUnavailable) true.
func (e *ExitError) Unwrap() error { return ErrUnavailable }

func lastOf(lines []string, n int) []string {
	return lines[max(0, len(lines)-n):]
}
