package llamacpp

import (
	"bytes"
	"errors"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

const (
	maxLine = 4 << 10 // bytes kept of a line
	maxKept = 30      // lines kept of stderr
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

func (o *output) add(line string, log zerolog.Logger) {
	log.Debug().Str("line", line).Msg("llama-server")
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

// Lines that we add for ends without words.
const (
	killedLine  = "Killed by the system"
	illegalLine = "Illegal instruction"
)

// hints are for what goes wrong on users' machines, by what the process says.
var hints = []struct{ said, hint string }{
	{"libgomp", "install the GNU OpenMP runtime: apt install libgomp1, dnf install libgomp, or apk add libgomp"},
	{"GLIBC", "xllamacpp needs a newer glibc (2.17 or later, not musl)"},
	{"No module named 'xllamacpp'", "this Python has no xllamacpp: pip install xllamacpp, or let empo2 install its own environment"},
	{illegalLine, "the packaged llama.cpp needs a processor with AVX2 and FMA: pip install --no-binary xllamacpp xllamacpp builds one for this machine"},
	{"LoRA arch mismatch", "the adapter belongs to another base model; name the model that it was trained on"},
	{"hint: maybe wrong base model", "the adapter belongs to another base model; name the model that it was trained on"},
	{"has incorrect shape", "the adapter belongs to another base model; name the model that it was trained on"},
	{"does not exist in base model", "the adapter belongs to another base model; name the model that it was trained on"},
	{"within the file bounds", "the file is cut short: delete it and let it be written again"},
	{"invalid magic", "the file is not GGUF: delete it and let it be written again"},
	{"unable to allocate", "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{"failed to allocate", "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{"bad_alloc", "not enough memory: lower sampler.concurrency or sampler.max_model_len"},
	{killedLine, "most likely out of memory: lower sampler.concurrency or sampler.max_model_len"},
	{"failed to load model", "the file is damaged, or of a kind that the installed xllamacpp does not know: make it again"},
	{"couldn't bind", "no free port on 127.0.0.1, or the loopback interface is down"},
}

// failure is an error with the last words and, if they are known, a hint.
func (o *output) failure(what string) error {
	said := o.said()
	text := what + said
	for _, h := range hints {
		if strings.Contains(said, h.said) {
			text += "\n  hint: " + h.hint
			break
		}
	}
	return errors.New(text)
}
