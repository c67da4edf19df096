package process

import (
	"bytes"
	"strings"
	"sync"
)

const (
	maxLine = 16 << 10 // bytes kept of a line
	maxKept = 30       // lines kept for errors
)

// lines is an io.Writer that calls each with every line that is not empty. A
// carriage return ends a line too, because many tools draw progress bars with
// it. Only one goroutine may write.
type lines struct {
	each func(line string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	n := len(b)
	for {
		i := bytes.IndexAny(b, "\n\r")
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

// flush treats the text since the last line end as a line.
func (l *lines) flush() {
	if line := strings.TrimRight(string(l.rest), " \t"); line != "" {
		l.each(line)
	}
	l.rest = l.rest[:0]
}

// output keeps the last lines of a process. The zero value is ready for use.
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

func (o *output) tail() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.kept...)
}

// block formats lines as an indented block that follows other text.
func block(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("\n    " + line)
	}
	return b.String()
}
