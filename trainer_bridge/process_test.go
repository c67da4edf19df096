package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/process/processtest"
)

// script is a shell script in place of Python. It gets the trainer's arguments
// and environment.
func script(t *testing.T, body string) ProcessConfig {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "python")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
	return ProcessConfig{Python: file, SourceDir: dir, Model: "/model", Root: dir, Grace: 10 * time.Second}
}

const sayReady = `echo '{"event":"ready","port":1234,"pid":'$$',"model":"/model","vocab_size":7}'` + "\n"

func TestProcessIsReadyAndEndsWithItsStdin(t *testing.T) {
	cfg := script(t, `echo "$* $PYTHONPATH $EMPO2_TRAINER_TOKEN" > seen
`+sayReady+"cat > /dev/null\n")
	cfg.Threads, cfg.Seed, cfg.Formats = 2, 5, []string{"peft", "gguf"}
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if p.URL() != "http://127.0.0.1:1234" || p.Ready().VocabSize != 7 || p.Err() != nil {
		t.Errorf("URL %s, ready %+v, err %v", p.URL(), p.Ready(), p.Err())
	}
	seen, err := os.ReadFile(filepath.Join(cfg.SourceDir, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{"-m empo2_trainer serve --model /model --root", cfg.Root,
		"--host 127.0.0.1 --port 0 --seed 5 --threads 2 --formats peft,gguf", cfg.SourceDir, p.Token()}, " ")
	if got := strings.TrimSpace(string(seen)); got != want {
		t.Errorf("the trainer was started with\n%s\nwant\n%s", got, want)
	}
	p.Close()
	<-p.Exited()
	if err := p.Err(); !errors.Is(err, ErrUnavailable) || errors.As(err, new(*ExitError)) {
		t.Errorf("after Close: %v", err)
	}
	p.Close() // again
}

func TestSeveralRanksHaveFlagsAndMoreTime(t *testing.T) {
	f := func(cfg ProcessConfig, want string) {
		t.Helper()
		c, err := new(Process).command(cfg)
		if err != nil || strings.Join(c.Args[14:], " ") != want {
			t.Errorf("%v, %v; want %q", c.Args, err, want)
		}
	}
	f(ProcessConfig{GPUs: 1, Parallel: "auto", RankTimeout: time.Minute}, "")
	f(ProcessConfig{GPUs: 4, Parallel: "fsdp2", RankTimeout: 1500 * time.Millisecond},
		"--gpus 4 --parallel fsdp2 --rank-timeout 1.5")
}

func TestProcessThatDoesNotStart(t *testing.T) {
	f := func(name, body string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			cfg := script(t, body)
			cfg.Kills = func() int { return -1 }
			_, err := Start(t.Context(), cfg)
			for _, w := range want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
	f("fatal event", `echo '{"event":"fatal","error":"no model in /model","hint":"name a folder"}' >&2; exit 3`,
		"exit status 3", "no model in /model", "hint: name a folder")
	f("traceback", `echo 'Traceback' >&2; echo 'ImportError: torch' >&2; exit 1`, "exit status 1", "ImportError: torch")
	f("noise on stdout", `echo 'hello'; exit 0`, "exit status 0", "hello")
	f("no such module", `exec no-such-command`, "exit status 127")
	f("killed", `kill -9 $$`, "signal: killed", "memory")
}

func TestProcessWithoutInterpreter(t *testing.T) {
	cfg := script(t, "")
	cfg.Python = filepath.Join(cfg.Root, "absent")
	if _, err := Start(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestProcessThatIsNeverReadyIsStopped(t *testing.T) {
	cfg := script(t, "echo $$ > pid; echo loading >&2; cat > /dev/null\n")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("had enough")
	go func() {
		waitForFile(t, filepath.Join(cfg.Root, "pid"))
		cancel(stop)
	}()
	_, err := Start(ctx, cfg)
	if !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if pid := readPID(t, filepath.Join(cfg.Root, "pid")); syscall.Kill(pid, 0) == nil {
		t.Errorf("process %d still runs", pid)
	}
}

func TestCallsEndAtOnceIfTheProcessDies(t *testing.T) {
	p, err := Start(t.Context(), script(t, sayReady+`echo '{"event":"step","level":"info"}' >&2
echo 'Killed by a test' >&2
read line; exit 9`))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	dialed := make(chan error, 1)
	go func() { // nothing listens at the port that the script names
		_, err := Dial(t.Context(), ClientConfig{Process: p, Rank: 1, Timeout: time.Hour})
		dialed <- err
	}()
	syscall.Kill(p.Ready().PID, syscall.SIGKILL)
	err = <-dialed
	var exit *ExitError
	if !errors.As(err, &exit) || exit.State != "signal: killed" {
		t.Errorf("got %v", err)
	}
}

func TestCloseKillsAProcessThatIgnoresIt(t *testing.T) {
	cfg := script(t, "trap '' TERM\n"+sayReady+"while :; do sleep 1000; done\n")
	cfg.Grace = time.Millisecond
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	select {
	case <-p.Exited():
	default:
		t.Error("Close returned before the process ended")
	}
}

func waitForFile(t *testing.T, path string) {
	for t.Context().Err() == nil {
		if b, err := os.ReadFile(path); err == nil && len(b) > 0 {
			return
		}
	}
}

func readPID(t *testing.T, path string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Routine events before an end do not explain it.
func TestErrorsDoNotQuoteRoutineEvents(t *testing.T) {
	cfg := script(t, `echo '{"level":"info","event":"log","message":"step took 0.1 s"}' >&2
echo 'Traceback: boom' >&2
exit 3
`)
	_, err := Start(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "boom") || strings.Contains(err.Error(), "took 0.1 s") {
		t.Errorf("%v", err)
	}
}

// The trainer and the converter inherit no modules of another Python and no keys.
func TestEnvironmentOfTheTrainer(t *testing.T) {
	t.Setenv("PYTHONPATH", "/nowhere")
	t.Setenv("CUDA_VISIBLE_DEVICES", "1")
	t.Setenv("HF_HOME", "/models")
	t.Setenv("HTTPS_PROXY", "http://proxy")
	t.Setenv("NAMED", "by the user")
	cfg := script(t, "exit 1")
	program, check := processtest.Spy(t, "CUDA_VISIBLE_DEVICES=1", "HF_HOME=/models", "NAMED=by the user",
		"PYTHONPATH="+cfg.SourceDir)
	cfg.Python, cfg.Inherit = program, []string{"NAMED"}
	if _, err := Start(t.Context(), cfg); err == nil {
		t.Error("the trainer started")
	}
	check("HTTPS_PROXY")
	c := Converter{Python: program, SourceDir: cfg.SourceDir, Inherit: cfg.Inherit}
	if err := c.Convert(t.Context(), "model", "out"); err == nil {
		t.Error("the converter succeeded")
	}
	check("HTTPS_PROXY", "EMPO2_TRAINER_TOKEN")
}

// A trainer that refuses to start would refuse again. One that is killed while it
// starts may start the next time.
func TestWhichStartsAreRepeated(t *testing.T) {
	f := func(want bool, e *ExitError) {
		t.Helper()
		if err := fmt.Errorf("start trainer: %w", e); Restartable(err) != want {
			t.Errorf("%v: Restartable is %t", err, !want)
		}
	}
	f(false, &ExitError{State: "exit status 1", Fatal: "no such model", refused: true})
	f(true, &ExitError{State: "signal: killed", killed: true})
	f(true, &ExitError{State: "exit status 1", Fatal: "RuntimeError: CUDA error"}) // while it trained
}

func TestOutputIsReadable(t *testing.T) {
	got := messages([]string{`{"level": "error", "message": "forward failed", "traceback": "File x"}`, "plain text"})
	if strings.Join(got, "|") != "error: forward failed|plain text" {
		t.Errorf("got %q", got)
	}
}
