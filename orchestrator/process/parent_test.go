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

// parentEnv makes the test binary a program that runs a process in this
// directory and waits to be killed.
const parentEnv = "EMPO2_TEST_PARENT"

// stubborn ignores its stdin and SIGTERM, and so does its child. Both hold the
// pipe "alive" open while they run.
const stubborn = `trap '' TERM HUP INT; exec 3>alive; sleep 1000 & echo up >&3; echo ready; while :; do sleep 1000; done`

func parent(dir string) {
	var err error
	switch os.Getenv(parentEnv + "_HOW") {
	case "Run":
		err = Run(context.Background(), script(dir, stubborn))
	case "Keep":
		_, err = Keep(context.Background(), script(dir, stubborn), Budget{})
	default:
		_, err = Start(context.Background(), script(dir, stubborn))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

func TestAProcessAndItsChildrenEndWhenWeAreKilled(t *testing.T) {
	for _, how := range []string{"Start", "Keep", "Run"} {
		dir := t.TempDir()
		fifo := filepath.Join(dir, "alive")
		if err := syscall.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
		us := exec.Command(os.Args[0])
		us.Env = append(os.Environ(), parentEnv+"="+dir, parentEnv+"_HOW="+how)
		us.Stderr = os.Stderr
		if err := us.Start(); err != nil {
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
		us.Process.Kill()
		us.Wait()
		// The pipe ends when nobody holds it any more.
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("%s: %q, %v", how, rest, err)
		}
	}
}
