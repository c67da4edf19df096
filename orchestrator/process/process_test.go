package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentEnv); dir != "" {
		parent(dir)
	}
	goleak.VerifyTestMain(m)
}

// script returns a shell script as a command. It is ready when it prints
// "ready".
func script(dir, text string) Command {
	return Command{
		Name: "script", Args: []string{"/bin/sh", "-c", text}, Dir: dir,
		Ready: func(line string) (bool, error) { return line == "ready", nil },
	}
}

func start(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// gone reports whether a process has ended. A zombie counts as ended.
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(stat), ") Z ")
}

// until polls f until it is true. The time limit of go test bounds it.
func until(f func() bool) {
	for !f() {
		time.Sleep(time.Millisecond)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestStopEndsTheProcessAndItsChildren(t *testing.T) {
	dir := t.TempDir()
	p := start(t, script(dir, `sleep 1000 & echo $! >child; echo ready; wait`))
	if p.Err() != nil || !p.Running() {
		t.Errorf("running: %v", p.Err())
	}
	p.Stop()
	p.Stop() // again
	if !gone(p.PID()) {
		t.Error("the process still runs after Stop")
	}
	var exit *ExitError
	if !errors.As(p.Err(), &exit) || !exit.Stopped || exit.State != "signal: terminated" {
		t.Errorf("%v", p.Err())
	}
	child, err := strconv.Atoi(read(t, dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	until(func() bool { return gone(child) })
}

func TestStopClosesStdinThenSignals(t *testing.T) {
	f := func(name, text, state string, stdin bool) {
		t.Helper()
		c := script(t.TempDir(), text)
		c.Stdin, c.Grace = stdin, 20*time.Millisecond
		if state == "exit status 7" {
			c.Grace = time.Hour
		}
		p := start(t, c)
		p.Stop()
		var exit *ExitError
		if !errors.As(p.Err(), &exit) || exit.State != state {
			t.Errorf("%s: %v, want %s", name, p.Err(), state)
		}
	}
	f("stdin", `trap '' TERM; echo ready; read line; exit 7`, "exit status 7", true)
	f("SIGTERM", `echo ready; exec sleep 1000`, "signal: terminated", true)
	f("SIGTERM at once", `trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done`, "exit status 7", false)
	f("SIGKILL", `trap '' TERM; echo ready; while :; do sleep 1000; done`, "signal: killed", false)
	f("SIGKILL after both", `trap '' TERM; echo ready; while :; do sleep 1000; done`, "signal: killed", true)
}

// A child of a server that died would keep the port or the memory.
func TestChildrenEndWhenTheProcessDies(t *testing.T) {
	dir := t.TempDir()
	p := start(t, script(dir, `sleep 1000 >/dev/null 2>&1 & echo $! >child; echo ready; exit 3`))
	<-p.Done()
	child, err := strconv.Atoi(read(t, dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	until(func() bool { return gone(child) })
}

func TestStartErrors(t *testing.T) {
	f := func(name string, change func(*Command), says ...string) {
		t.Helper()
		c := script(t.TempDir(), `echo some words; echo others >&2; exit 4`)
		change(&c)
		_, err := Start(t.Context(), c)
		for _, s := range append(says, "start script: ") {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v, want %q", name, err, s)
			}
		}
	}
	f("ends", func(*Command) {}, "script ended: exit status 4\n    ", "\n    some words", "\n    others")
	f("ends with status 0", func(c *Command) { c.Args[2] = "echo done" }, "exit status 0\n    done")
	f("no program", func(c *Command) { c.Args = []string{"/no-such-program"} },
		"/no-such-program: no such file", "hint: install the program")
	f("no arguments", func(c *Command) { c.Args = nil }, "no command")
	f("never ready", func(c *Command) {
		c.Args[2], c.StartTimeout = "echo loading; exec sleep 1000", 50*time.Millisecond
	}, "not ready within 50ms")
	f("Ready fails", func(c *Command) {
		c.Args[2] = "echo welcome; exec sleep 1000"
		c.Ready = func(line string) (bool, error) { return false, fmt.Errorf("no port in %q", line) }
	}, `no port in "welcome"`)
	f("hint", func(c *Command) { c.Hints = []Hint{{"luck", "none"}, {"others", "ask them"}} }, "\n  hint: ask them")
	unknown := func() int { return -1 }
	f("killed", func(c *Command) { c.Args[2], c.Kills = "kill -KILL $$", unknown }, "signal: killed",
		"hint: the system killed it", "memory")
	f("killed, with a hint", func(c *Command) {
		c.Args[2], c.Kills, c.Hints = "kill -KILL $$", unknown, []Hint{{KilledBySystem, "a smaller model"}}
	}, "hint: a smaller model")
	f("illegal instruction", func(c *Command) { c.Args[2] = "kill -ILL $$" },
		"signal: illegal", "hint: the program needs instructions")
	f("killed with its group", func(c *Command) { c.Args[2] = "kill -KILL 0" }, "signal: killed")
}

func TestStartEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	c := script(t.TempDir(), `echo $$ >pid; echo loading; trap '' TERM; while :; do sleep 1000; done`)
	c.Stdout = func(line string) bool { cancel(enough); return true }
	_, err := Start(ctx, c)
	if !errors.Is(err, enough) || !strings.Contains(err.Error(), "enough\n    loading") {
		t.Error(err)
	}
	if pid, _ := strconv.Atoi(read(t, c.Dir, "pid")); !gone(pid) {
		t.Error("the process still runs after a cancelled start")
	}
}

func TestPollDecidesReadiness(t *testing.T) {
	c := script(t.TempDir(), `sleep 0.01; touch up; exec sleep 1000`)
	polls := 0
	c.Ready, c.PollInterval = nil, time.Millisecond
	c.Poll = func(context.Context) error {
		polls++
		_, err := os.Stat(filepath.Join(c.Dir, "up"))
		return err
	}
	start(t, c)
	if polls < 2 {
		t.Errorf("%d polls", polls)
	}
}

// Programs print their arguments and their environment.
func TestSecretsAreRedacted(t *testing.T) {
	var log bytes.Buffer
	c := script(t.TempDir(), `echo my key is $KEY; exit 3`)
	c.Args, c.Env = append(c.Args, "--api-key", "s3cret"), []string{"KEY=s3cret"}
	c.Secrets, c.Log = []string{"", "s3cret"}, zerolog.New(zerolog.SyncWriter(&log))
	_, err := Start(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "my key is [key]") ||
		!strings.Contains(log.String(), "--api-key [key]") {
		t.Errorf("%v\n%s", err, &log)
	}
	if strings.Contains(fmt.Sprint(err, &log), "s3cret") {
		t.Errorf("%v\n%s", err, &log)
	}
}

// An argument that is a whole script would fill the log.
func TestLongArgumentsAreShortened(t *testing.T) {
	c := Command{Args: []string{"python", "-c", "import os\nprint(1)", strings.Repeat("x", 5000)}}
	if got := c.line(safetext.Redactor{}); !strings.HasPrefix(got, "python -c import os… xxx") || len(got) > 250 {
		t.Errorf("%q", got)
	}
}

func TestOutputIsBounded(t *testing.T) {
	c := script(t.TempDir(), `head -c 100000 /dev/zero | tr '\0' x; echo; i=0
while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; printf '\rbar 10%%\rbar 20%%'; exit 1`)
	longest := 0
	c.Stdout = func(line string) bool { longest = max(longest, len(line)); return true }
	_, err := Start(t.Context(), c)
	var exit *ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if n := len(exit.Output); n != maxKept || exit.Output[n-3] != "line 50" || exit.Output[n-1] != "bar 20%" {
		t.Errorf("%d lines: %q", len(exit.Output), exit.Output)
	}
	if longest != maxLine {
		t.Errorf("the longest line has %d bytes", longest)
	}
}

// A simulator prints much that is of no use in an error.
func TestErrorsQuoteOnlyWhatStdoutAllows(t *testing.T) {
	c := script(t.TempDir(), `echo ready; echo chatter; echo trouble >&2; exit 1`)
	c.Stdout = func(string) bool { return false }
	p, err := Start(t.Context(), c)
	if err == nil {
		<-p.Done()
		err = p.Err()
	}
	if !strings.Contains(err.Error(), "trouble") || strings.Contains(err.Error(), "chatter") {
		t.Error(err)
	}
}

// A child that a signal has stopped is in the status of the run, also while it starts.
func TestAStoppedChildIsInTheStatus(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("*** NOT RUN: the state of a process needs /proc ***")
	}
	watch := watchdog.New()
	ctx, cancel := context.WithCancel(watchdog.With(t.Context(), watch))
	names := func() (names []string) {
		for _, c := range watch.Status().Stopped {
			names = append(names, c.Name)
		}
		return names
	}
	c := script(t.TempDir(), `echo ready; read line`)
	c.Name, c.Stdin = "server", true
	p, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	c = script(t.TempDir(), `echo $$ >pid; kill -STOP $$; read line`)
	c.Name, c.Stdin = "trainer", true
	c.Ready = func(string) (bool, error) { return false, nil }
	failed := make(chan error)
	go func() { _, err := Start(ctx, c); failed <- err }()
	until(func() bool { return slices.Equal(names(), []string{"trainer"}) })
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return slices.Equal(names(), []string{"server", "trainer"}) })
	if err := syscall.Kill(p.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(func() bool { return slices.Equal(names(), []string{"trainer"}) })
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	until(func() bool { return len(names()) == 0 })
}
