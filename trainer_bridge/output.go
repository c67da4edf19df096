package trainerbridge

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/process"
)

// readReady reads the ready event. It returns an error for any other line,
// because the trainer writes nothing else to stdout.
func (p *Process) readReady(line string) (bool, error) {
	var event struct {
		Event string `json:"event"`
		Ready
	}
	if json.Unmarshal([]byte(line), &event) != nil || event.Event != "ready" || event.Port == 0 {
		return false, nil
	}
	p.first = event.Ready
	return true, nil
}

// output logs the trainer's events and keeps its fatal error. It is safe for
// concurrent use.
type output struct {
	log   zerolog.Logger
	mu    sync.Mutex
	fatal string
	hint  string
	// outOfMemory: the trainer says that memory ran out, and that it cannot go on.
	outOfMemory bool
}

// line reads one line: a JSON event, or text that a library printed. It reports
// whether an error should quote the line. Routine events are not quoted.
func (o *output) line(text string) bool {
	var event map[string]any
	if json.Unmarshal([]byte(text), &event) != nil {
		o.log.Debug().Str("line", text).Msg("trainer")
		return true
	}
	if event["event"] == "fatal" {
		o.mu.Lock()
		fatal, _ := event["error"].(string)
		hint, _ := event["hint"].(string)
		o.fatal, o.hint = inKeys(fatal), inKeys(hint)
		o.outOfMemory = event["out_of_memory"] == true
		o.mu.Unlock()
	}
	explains := !routine(event)
	logEvent(o.log, event)
	return explains
}

// routine reports whether an event is below a warning.
func routine(event map[string]any) bool {
	name, _ := event["level"].(string)
	return name == "info" || name == "debug"
}

// logEvent logs an event at its level, or at level debug if it has none.
func logEvent(log zerolog.Logger, event map[string]any) {
	level := zerolog.DebugLevel
	if name, ok := event["level"].(string); ok {
		if parsed, err := zerolog.ParseLevel(strings.ToLower(name)); err == nil && parsed < zerolog.FatalLevel {
			level = parsed
		}
	}
	message := "trainer"
	if name, ok := event["event"].(string); ok {
		message = "trainer: " + name
	}
	if text, ok := event["message"].(string); ok {
		message = "trainer: " + text
	}
	if trace, ok := event["traceback"].(string); ok { // for those who look for a mistake in the trainer
		log.Debug().Str("traceback", trace).Msg(message)
	}
	for _, key := range []string{"level", "event", "message", "traceback", zerolog.TimestampFieldName} {
		delete(event, key)
	}
	log.WithLevel(level).Fields(event).Msg(message)
}

// messages replaces the trainer's events by their texts.
func messages(lines []string) []string {
	out := make([]string, len(lines))
	for i, line := range lines {
		var event struct{ Level, Message string }
		if out[i] = line; json.Unmarshal([]byte(line), &event) == nil && event.Message != "" {
			out[i] = strings.TrimPrefix(event.Level+": ", ": ") + event.Message
		}
	}
	return out
}

// exitError adds the trainer's fatal error to the exit of its process. It
// returns nil if err is not about an exit.
func (o *output) exitError(err error) *ExitError {
	var exit *process.ExitError
	if !errors.As(err, &exit) {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return &ExitError{State: exit.State, Fatal: o.fatal, Hint: o.hint, Output: messages(exit.Output),
		OutOfMemory: exit.OutOfMemory || o.outOfMemory, stopped: exit.Stopped, killed: exit.Killed}
}
