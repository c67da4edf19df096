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

// KeyVariable is the environment variable with the token of a trainer elsewhere.
const KeyVariable = "EMPO2_TRAINER_KEY"

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
	// OutOfMemory has the figures if a row does not fit into the trainer's
	// memory; nil: the error is another one.
	OutOfMemory *OutOfMemory
}

// OutOfMemory says which row does not fit into the trainer's memory, even alone
// and with the least memory per token.
type OutOfMemory struct {
	Row      int   `json:"row"`             // index among the rows of the call
	Tokens   int   `json:"row_tokens"`      // of the row
	Possible int   `json:"possible_tokens"` // of the longest row that would fit
	Needed   int64 `json:"needed_bytes"`
	Free     int64 `json:"free_bytes"`

	part int // the request of the call that was refused
}

func (o *OutOfMemory) String() string {
	return fmt.Sprintf("out of memory: row %d has %d tokens and needs about %.2f GB; %.2f GB are free, enough for "+
		"about %d tokens\n  hint: shorten the episodes (rollout.max_turns, rollout.max_tokens, sampler.max_model_len), "+
		"use a smaller model or trainer.dtype = \"bfloat16\", or free memory",
		o.Row, o.Tokens, float64(o.Needed)/1e9, float64(o.Free)/1e9, o.Possible)
}

// Error names the call, the category and the trainer's message.
func (e *RequestError) Error() string {
	if e.OutOfMemory != nil {
		return fmt.Sprintf("%s: %s", e.Op, e.OutOfMemory)
	}
	text := fmt.Sprintf("%s: refused by the trainer (%s): %s", e.Op, e.Category, e.Message)
	switch e.Status {
	case 401, 403:
		text += "\n  hint: the bearer token is missing or wrong; for a trainer at trainer.url it is taken from " + KeyVariable
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
	// OutOfMemory: the system killed it, most likely because memory ran out.
	OutOfMemory bool

	stopped bool // by Close
	// refused: it ended by itself before it was ready. It would end again.
	refused bool
	killed  bool // by a signal from outside
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
	case e.OutOfMemory:
		b.WriteString("\n  hint: memory ran out, most likely: lower trainer.micro_batch_tokens or the length of " +
			"episodes, or use a smaller model")
	}
	return b.String()
}

// Unwrap makes errors.Is(err, ErrUnavailable) true.
func (e *ExitError) Unwrap() error { return ErrUnavailable }

func lastOf(lines []string, n int) []string {
	return lines[max(0, len(lines)-n):]
}
