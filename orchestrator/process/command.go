// Package process runs child processes: inference servers, trainers,
// simulators and short-lived tools. Start with [Command], which describes what
// to run. Then choose one of four functions:
//   - [Start] starts a process and waits until it is ready.
//   - [Keep] does the same and restarts the process whenever it ends.
//   - [Run] runs a tool until it ends.
//   - [Output] does the same and returns what the tool wrote to stdout.
//
// Every child process
//   - has its own process group: Ctrl-C in the terminal reaches only empo2,
//     and a signal from empo2 reaches the whole group;
//   - ends when empo2 ends, even by SIGKILL (see guard_unix.go);
//   - gets only the environment variables that it needs (see [Environ]);
//   - ends with an [ExitError], which has the last lines of output and a hint.
package process

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// A Command says what to run. Only Args is required.
type Command struct {
	Name string   // in errors and logs, for example "vllm"; empty: the program's file name
	Args []string // program and arguments
	Dir  string   // working directory; empty: that of empo2

	Needs   Needs    // groups of variables that the child inherits
	Inherit []string // further variables: NAME, NAME=VALUE, or a prefix such as VLLM_*; see [Environ]
	Env     []string // KEY=VALUE, added to the inherited ones; pass secrets here
	Secrets []string // replaced in logs and errors

	// Ready is called with each line of stdout until it returns true or an
	// error. An error makes Start fail. Nil: stdout has no ready line.
	Ready func(line string) (bool, error)
	// Poll is called until it returns nil. Nil: the process is not polled.
	// Without Ready and Poll, a process is ready at once.
	Poll         func(ctx context.Context) error
	PollInterval time.Duration // 0: 250 milliseconds
	StartTimeout time.Duration // until the process is ready; 0: 10 minutes

	// Stdin keeps the child's stdin open until Stop. It is for programs that
	// end when their stdin ends. Other programs read /dev/null.
	Stdin bool
	// Grace is the time that the process has to end after each step of Stop;
	// 0: 10 seconds.
	Grace time.Duration

	// Stdout and Stderr are called with each line, without its end. They
	// return whether an error should quote the line. Nil: the line is logged
	// at level debug, and quoted. Each is called by one goroutine at a time.
	Stdout func(line string) bool
	Stderr func(line string) bool
	Merge  bool   // stderr is treated as stdout, in the order of writing
	Hints  []Hint // errors show the first one that matches the quoted lines
	// Kills counts the processes of this control group that the kernel has
	// killed because memory ran out; -1: unknown. Nil: memory.events is read.
	Kills func() int

	Log zerolog.Logger // the zero value is silent
}

// A Hint is a remedy for an error whose text, or for a process whose last output,
// contains Contains.
type Hint struct{ Contains, Remedy string }

func (c Command) withDefaults() (Command, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return c, errors.New("no command")
	}
	if c.Name == "" {
		c.Name = filepath.Base(c.Args[0])
	}
	for value, d := range map[*time.Duration]time.Duration{
		&c.PollInterval: 250 * time.Millisecond, &c.StartTimeout: 10 * time.Minute, &c.Grace: 10 * time.Second,
	} {
		if *value == 0 {
			*value = d
		}
	}
	for _, each := range []*func(string) bool{&c.Stdout, &c.Stderr} {
		if *each == nil {
			*each = c.logLine
		}
	}
	return c, nil
}

func (c Command) logLine(line string) bool {
	c.Log.Debug().Str("line", line).Msg(c.Name)
	return true
}

// line returns the command as one line for logs. Long arguments are shortened:
// some are whole scripts.
func (c Command) line(secrets safetext.Redactor) string {
	const maxWord = 200 // bytes
	words := make([]string, len(c.Args))
	for i, word := range c.Args {
		word, _, cut := strings.Cut(secrets.Text(word), "\n")
		if len(word) > maxWord {
			word, cut = word[:maxWord], true
		}
		if cut {
			word += "…"
		}
		words[i] = word
	}
	return strings.Join(words, " ")
}
