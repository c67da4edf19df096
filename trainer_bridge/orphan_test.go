package trainerbridge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// orphanVar is a variable with a path. If it is set, the test binary starts the
// trainer at that path and waits.
const orphanVar = "EMPO2_TEST_ORPHAN"

func orphanMain(python string) {
	dir := filepath.Dir(python)
	if _, err := Start(context.Background(), ProcessConfig{Python: python, SourceDir: dir, Model: "/model",
		Root: dir}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// The test kills a program that supervises a trainer. The trainer ignores the
// end of its stdin, but must end too.
func TestTrainerEndsWhenTheParentIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills the children of a killed program")
	}
	cfg := script(t, `exec 3> alive; echo up >&3
`+sayReady+"exec sleep 1000\n")
	fifo := filepath.Join(cfg.Root, "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	us := exec.Command(os.Args[0])
	us.Env = append(os.Environ(), orphanVar+"="+cfg.Python)
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
		t.Fatalf("the trainer says %q (%v)", line, err)
	}
	us.Process.Kill()
	us.Wait()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 { // the pipe ends when no process has it open
		t.Errorf("%q, %v", rest, err)
	}
}
