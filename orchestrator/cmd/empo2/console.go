package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// console prints results to out, and progress and logs to err. Texts of
// environments, models and servers cannot control the terminal. It is safe for
// concurrent use.
type console struct {
	out, err  io.Writer // they escape what controls a terminal
	raw       io.Writer // err without escapes, for logs: their colours are escapes too
	mu        sync.Mutex
	line      progressLine
	screen    bool // both out and err are a terminal
	jsonLines bool // progress and warnings are JSON lines on out too
}

func newConsole(stdout, stderr io.Writer) *console {
	c := &console{out: safetext.Writer{W: stdout}, err: safetext.Writer{W: stderr}, raw: stderr}
	c.line.out = c
	if f, ok := terminalOf(stderr); ok {
		c.line.terminal, c.line.width = true, func() int { return widthOf(f) }
		if results, ok := stdout.(*resultWriter); ok {
			stdout = results.w
		}
		_, c.screen = terminalOf(stdout)
	}
	return c
}

// note prints one line of progress to standard error.
func (c *console) note(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.clear()
	fmt.Fprintf(c.err, format+"\n", args...)
}

// noteProblem prints an error that does not end the command; nil: nothing.
func (c *console) noteProblem(err error) {
	if err != nil {
		msg, hint := splitHint(err)
		c.note("note: %s\n  hint: %s", msg, hint)
	}
}

// print prints one line of results to standard output.
func (c *console) print(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line.clear()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// useJSON has progress and warnings printed as JSON lines too.
func (c *console) useJSON(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jsonLines = on
}

// jsonSchema is the version of the JSON lines. It changes if a field is renamed,
// removed or gets another meaning.
const jsonSchema = 2

// jsonLine is one JSON line.
type jsonLine struct {
	Event  string    `json:"event"`
	Schema int       `json:"schema"`
	At     time.Time `json:"at"` // when the line was printed
	Data   any       `json:"data"`
}

// json prints one JSON line to standard output.
func (c *console) json(event string, v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeJSON(event, v)
}

// writeJSON is json for callers that have the lock.
func (c *console) writeJSON(event string, v any) {
	c.line.clear()
	text, err := json.Marshal(jsonLine{event, jsonSchema, time.Now().UTC(), v})
	if err != nil {
		fmt.Fprintf(c.err, "%s: %v\n", event, err)
		return
	}
	fmt.Fprintf(c.out, "%s\n", text)
}

// logger logs to standard error: warnings only, or everything if verbose.
func (c *console) logger(verbose bool) zerolog.Logger {
	level := zerolog.WarnLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	text := zerolog.ConsoleWriter{
		Out: lockedWriter{c, c.raw}, TimeFormat: time.TimeOnly, NoColor: os.Getenv("NO_COLOR") != "" || !c.line.terminal,
		FormatPrepare: inertMessage, FormatFieldValue: inertValue,
	}
	w := zerolog.MultiLevelWriter(text, warningEvents{c})
	return zerolog.New(w).Level(level).With().Timestamp().Logger()
}

// warningEvents prints warnings and errors of the log as JSON lines, if the command
// prints such lines.
type warningEvents struct{ c *console }

// Write implements [io.Writer]. Entries without a level are not printed.
func (w warningEvents) Write(p []byte) (int, error) { return len(p), nil }

// WriteLevel implements [zerolog.LevelWriter].
func (w warningEvents) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	if level < zerolog.WarnLevel || !w.c.jsonLines {
		return len(p), nil
	}
	entry := map[string]any{}
	if err := json.Unmarshal(p, &entry); err != nil {
		return 0, err
	}
	data := map[string]any{"level": entry[zerolog.LevelFieldName], "text": entry[zerolog.MessageFieldName]}
	for _, name := range []string{zerolog.LevelFieldName, zerolog.MessageFieldName, zerolog.TimestampFieldName} {
		delete(entry, name)
	}
	data["fields"] = entry
	w.c.writeJSON("warning", data)
	return len(p), nil
}

// inertMessage escapes the message of a log entry. The writer quotes texts in fields.
func inertMessage(entry map[string]any) error {
	if text, ok := entry[zerolog.MessageFieldName].(string); ok {
		entry[zerolog.MessageFieldName] = safetext.Line(text)
	}
	return nil
}

// inertValue formats a field that is no error. Lists are not quoted by the writer.
func inertValue(value any) string { return safetext.Escape(fmt.Sprintf("%s", value)) }

// lockedWriter writes to a writer of the console, one line at a time.
type lockedWriter struct {
	c  *console
	to io.Writer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	w.c.line.clear()
	return w.to.Write(p)
}
