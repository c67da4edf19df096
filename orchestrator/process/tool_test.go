package process

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRunPassesOnLinesInOrder(t *testing.T) {
	c := script(t.TempDir(), `echo one; echo two >&2; echo three; exit 0`)
	c.Merge = true
	var seen []string
	c.Stdout = func(line string) bool { seen = append(seen, line); return true }
	if err := Run(t.Context(), c); err != nil || !slices.Equal(seen, []string{"one", "two", "three"}) {
		t.Errorf("%q, %v", seen, err)
	}
}

func TestRunSaysWhyAToolFailed(t *testing.T) {
	c := script(t.TempDir(), `echo out; echo err >&2; exit 2`)
	var exit *ExitError
	if err := Run(t.Context(), c); !errors.As(err, &exit) || exit.State != "exit status 2" || len(exit.Output) != 2 {
		t.Errorf("%v", err)
	}
	c.Args = []string{"/no-such-program"}
	if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "run script: ") {
		t.Errorf("%v", err)
	}
}

func TestOutputReturnsStdout(t *testing.T) {
	c := script(t.TempDir(), `echo '{"a":'; echo noise >&2; printf 1}`)
	if got, err := Output(t.Context(), c); err != nil || string(got) != "{\"a\":\n1}\n" {
		t.Errorf("%q, %v", got, err)
	}
	c.Args[2] = `echo answer; echo problem >&2; exit 1`
	var exit *ExitError
	got, err := Output(t.Context(), c)
	if string(got) != "answer\n" || !errors.As(err, &exit) || !slices.Equal(exit.Output, []string{"problem"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// An interrupted tool can clean up. A tool that ignores SIGINT is killed.
func TestRunEndsWithItsContext(t *testing.T) {
	f := func(name, text string, cleaned bool, grace time.Duration) {
		t.Helper()
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		c := script(t.TempDir(), text)
		var last string
		c.Grace = grace
		c.Stdout = func(line string) bool {
			last = line
			cancel(enough)
			return true
		}
		if err := Run(ctx, c); !errors.Is(err, enough) || (last == "cleaned") != cleaned {
			t.Errorf("%s: %v, last %q", name, err, last)
		}
		if err := Run(ctx, c); !errors.Is(err, enough) {
			t.Errorf("%s, not started: %v", name, err)
		}
	}
	f("cleans up", `trap 'echo cleaned; exit 1' INT; echo up; while :; do sleep 0.01; done`, true, time.Hour)
	f("ignores SIGINT", `trap '' INT; echo up; while :; do sleep 1000; done`, false, 10*time.Millisecond)
}
