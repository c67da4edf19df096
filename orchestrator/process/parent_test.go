package process

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// parentEnv names a directory. If it is set, the test binary starts a process
// in that directory and waits until it is killed.
const parentEnv = "EMPO2_TEST_PARENT"

// ignoresSignals is a script that ignores its stdin and SIGTERM, as does its
// child. Both keep the pipe "alive" open while they run.
const ignoresSignals = `trap '' TERM HUP INT; exec 3>alive; sleep 1000 & echo up >&3; echo ready
while :; do sleep 1000; done`

func parent(dir string) {
	var err error
	switch os.Getenv(parentEnv + "_HOW") {
	case "Run":
		err = Run(context.Background(), script(dir, ignoresSignals))
	case "Keep":
		_, err = Keep(context.Background(), script(dir, ignoresSignals), Budget{})
	default:
		_, err = Start(context.Background(), script(dir, ignoresSignals))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

func TestChildrenEndWhenTheParentIsKilled(t *testing.T) {
	for _, how := range []string{"Start", "Keep", "Run"} {
		dir := t.TempDir()
		fifo := filepath.Join(dir, "alive")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		parent := exec.Command(os.Args[0])
		parent.Env = append(os.Environ(), parentEnv+"="+dir, parentEnv+"_HOW="+how)
		parent.Stderr = os.Stderr
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		alive, err := os.Open(fifo)
		if err != nil {
			t.Fatal(err)
		}
		defer alive.Close()
		r := bufio.NewReader(alive)
		if line, err := r.ReadString('\n'); line != "up\n" {
			t.Fatalf("%s: the process says %q (%v)", how, line, err)
		}
		parent.Process.Kill()
		parent.Wait()
		// The pipe ends when no process has it open.
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q, %v", how, rest, err)
		}
	}
}
