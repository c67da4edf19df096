package launch

import (
	"bytes"
	"strings"
	"sync"
)

const (
	maxLine = 4 << 10 // bytes kept of a line
	maxKept = 30      // lines kept
)

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

func (l *lines) keep(b []byte) { l.rest = append(l.rest, b[:min(len(b), maxLine-len(l.rest))]...) }

// flush hands on what has no newline yet.
func (l *lines) flush() {
	if line := strings.TrimSpace(string(l.rest)); line != "" {
		l.each(line)
	}
	l.rest = l.rest[:0]
}

// output keeps the end of what a process wrote. The zero value is ready.
type output struct {
	mu   sync.Mutex
	kept []string
}

func (o *output) add(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.kept) == maxKept {
		o.kept = append(o.kept[:0], o.kept[1:]...)
	}
	o.kept = append(o.kept, line)
}

// said is the last words as an indented block, empty if there are none.
func (o *output) said() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var b strings.Builder
	for _, line := range o.kept {
		b.WriteString("\n    " + line)
	}
	return b.String()
}

func (c Config) hint(said string) string {
	for _, h := range c.Hints {
		if strings.Contains(said, h.Said) {
			return h.Remedy
		}
	}
	return ""
}
