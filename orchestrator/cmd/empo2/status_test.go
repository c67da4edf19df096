package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/rs/zerolog"
)

func TestStatusOfARun(t *testing.T) {
	dir := t.TempDir()
	w := startWatcher(context.Background(), config.Default(), dir, zerolog.Nop(), func(string) {})
	ctx := watchdog.With(context.Background(), w.watch)
	w.watch.SetPhase(watchdog.Phase{Name: watchdog.PhaseTraining, Step: 7})
	end := watchdog.Begin(ctx, "trainer", "optim_step", time.Minute)
	w.watch.Last(strings.Repeat("free 0.123  ", 8) + "no action 7%")
	w.write("")
	show := func(want int, args ...string) string {
		t.Helper()
		var out, stderr bytes.Buffer
		if got := execute(context.Background(), append([]string{"status"}, args...), &out, &stderr); got != want {
			t.Errorf("status %v: exit code %d\n%s", args, got, stderr.String())
		}
		return out.String() + stderr.String()
	}
	f := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	}
	f(show(0, dir), "running for", "doing: step 7: training", "waiting for the trainer: optim_step, for ")
	for line := range strings.Lines(show(0, dir)) {
		if len(line) > columns+1 && strings.Contains(line, "free") {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	end()
	w.close("the disk is full")
	ended := show(0, dir)
	f(ended, "failed ", "the disk is full")
	if strings.Contains(ended, "doing: ") {
		t.Errorf("a run that has ended still does something:\n%s", ended)
	}
	f(show(exitUsage, filepath.Join(dir, "none")), "no such run", "hint: ")

	text, err := os.ReadFile(filepath.Join(dir, statusFile))
	if err != nil {
		t.Fatal(err)
	}
	var s watchdog.Status
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	s.Ended, s.Updated = "", s.Updated.Add(-time.Hour)
	if got := (runStatus{s}).state(time.Now()); !strings.Contains(got, "no news: process ") {
		t.Errorf("a run that hangs: %s", got)
	}
	s.PID = 1 << 30
	if got := (runStatus{s}).state(time.Now()); !strings.Contains(got, "killed: process 1073741824 is gone") {
		t.Errorf("a run that was killed: %s", got)
	}
}

// A signal is named in the one line that the program prints, and what failed
// because of it is not.
func TestSignalPrintsOneLine(t *testing.T) {
	f := func(s os.Signal, want string) {
		t.Helper()
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errInterrupted{s})
		var stderr bytes.Buffer
		code := conclude(ctx, context.DeadlineExceeded, &stderr)
		if code != exitInterrupted || stderr.String() != want {
			t.Errorf("%v: exit code %d, %q", s, code, stderr.String())
		}
	}
	const rest = "; finished work is kept, and the same command continues\n"
	f(os.Interrupt, "empo2: interrupted"+rest)
	f(syscall.SIGHUP, "empo2: interrupted (SIGHUP)"+rest)
	if got := (errInterrupted{os.Interrupt}).Error(); got != "interrupted (Ctrl-C)" {
		t.Errorf("the status of the run says %q", got)
	}
	f(syscall.SIGTERM, "empo2: interrupted (SIGTERM)"+rest)
}

func TestDump(t *testing.T) {
	w := watchdog.New()
	defer watchdog.Begin(watchdog.With(context.Background(), w), "memory", "recall tips", 0)()
	var b bytes.Buffer
	dump(&b, w)
	for _, want := range []string{"waiting for the memory: recall tips", "TestDump"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in the dump", want)
		}
	}
}
