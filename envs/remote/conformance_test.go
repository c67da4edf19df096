package remote

import (
	"bufio"
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/envs/envstest"
	"github.com/empo2/empo2/envs/remote/exchange"
	"github.com/empo2/empo2/envs/remote/remotetest"
)

func TestConformance(t *testing.T) {
	s := remotetest.Serve(t, newFake())
	envstest.Run(t, func(t *testing.T) envs.Family { return driver.Open(t, s) })
}

// scripts/example_env.py is a complete environment server.
func TestExampleInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not on PATH, scripts/example_env.py was not run")
	}
	s := exchange.Server{URL: startExample(t, python)}
	envstest.Run(t, func(t *testing.T) envs.Family { return driver.Open(t, s) },
		envstest.WithPolicy(func(_ envs.Task, step int, _ envs.Observation) string { return string(rune('1' + step)) }))

	f := driver.Open(t, s)
	t.Cleanup(func() { f.Close() })
	if tasks, _ := f.Tasks(envs.Train); !strings.HasPrefix(tasks[0].Instruction, "Find the secret number.") {
		t.Errorf("instruction = %q, want the server's", tasks[0].Instruction)
	}
	solved := 0
	for guess := range 8 {
		if playExample(t, f, string(rune('1'+guess))).Success {
			solved++
		}
	}
	if solved != 1 {
		t.Errorf("%d of the eight guesses were right, want 1", solved)
	}
}

// startExample starts the example on a free port and returns its address.
func startExample(t *testing.T, python string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, python, "../../scripts/example_env.py", "0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
	})
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the example did not say where it listens: %v", err)
	}
	return strings.TrimSpace(url)
}

// playExample makes one guess at the first task.
func playExample(t *testing.T, f *Family, guess string) envs.Step {
	t.Helper()
	e, _ := remotetest.Begin(t, f)
	step, err := e.Step(t.Context(), guess)
	if err != nil {
		t.Fatal(err)
	}
	return step
}
