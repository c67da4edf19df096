package trainerbridge

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// maxLine bounds how much of a line is kept, in bytes.
const maxLine = 16 << 10

// lines is an io.Writer that hands on whole lines. It has one writer.
type lines struct {
	each func(line string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			l.keep(b)
			return n, nil
		}
		l.keep(b[:i])
		l.flush()
		b = b[i+1:]
	}
}

func (l *lines) keep(b []byte) {
	l.rest = append(l.rest, b[:min(len(b), maxLine-len(l.rest))]...)
}

// flush hands on what has no newline yet.
func (l *lines) flush() {
	if line := strings.TrimRight(string(l.rest), "\r"); line != "" {
		l.each(line)
	}
	l.rest = l.rest[:0]
}

// readReady takes the first line of stdout; nothing else is expected there.
func (p *Process) readReady(line string) {
	var event struct {
		Event string `json:"event"`
		Ready
	}
	if json.Unmarshal([]byte(line), &event) != nil || event.Event != "ready" || event.Port == 0 {
		p.output.add(line, p.cfg.Log)
		return
	}
	select {
	case p.ready <- event.Ready:
	default:
	}
}

// maxKept is how many of the last lines of stderr are kept.
const maxKept = 60

// output forwards what a trainer says and remembers the end of it. Its zero
// value is ready for use; it is safe for concurrent use.
type output struct {
	mu    sync.Mutex
	kept  []string
	fatal string
	hint  string
}

// add takes one line, a JSON event or whatever a library printed.
func (o *output) add(line string, log zerolog.Logger) {
	var event map[string]any
	isEvent := json.Unmarshal([]byte(line), &event) == nil
	o.mu.Lock()
	if !isEvent || !routine(event) { // what went well explains no end
		o.kept = append(o.kept, line)
	}
	if len(o.kept) > maxKept {
		o.kept = append(o.kept[:0], lastOf(o.kept, maxKept/2)...)
	}
	if isEvent && event["event"] == "fatal" {
		o.fatal, _ = event["error"].(string)
		o.hint, _ = event["hint"].(string)
	}
	o.mu.Unlock()
	if isEvent {
		logEvent(log, event)
		return
	}
	log.Debug().Str("line", line).Msg("trainer")
}

// routine reports whether an event is below a warning.
func routine(event map[string]any) bool {
	name, _ := event["level"].(string)
	return name == "info" || name == "debug"
}

// logEvent forwards an event at its level, debug if it has none.
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
	for _, key := range []string{"level", "event", "message", zerolog.TimestampFieldName} {
		delete(event, key)
	}
	log.WithLevel(level).Fields(event).Msg(message)
}

// exitError is what is known about an end in the given state.
func (o *output) exitError(state string) *ExitError {
	o.mu.Lock()
	defer o.mu.Unlock()
	return &ExitError{State: state, Fatal: o.fatal, Hint: o.hint, Output: append([]string(nil), o.kept...)}
}

// said is the end of the output as an indented block, empty if there is none.
func (o *output) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.kept) == 0 {
		return ""
	}
	return "; its last words:\n    " + strings.Join(lastOf(o.kept, 12), "\n    ")
}
