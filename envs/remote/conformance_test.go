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
)

func mustOpen(t *testing.T, c Config) *Family {
	t.Helper()
	f, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestConformance(t *testing.T) {
	c := serve(t, newFake())
	envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, c) })
}

// The example of scripts/ is a whole environment.
func TestExampleInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not on PATH, so that scripts/example_env.py was not run")
	}
	c := config(exchange.Server{URL: startExample(t, python)})
	envstest.Run(t, func(t *testing.T) envs.Family { return mustOpen(t, c) },
		envstest.WithPolicy(func(_ envs.Task, step int, _ envs.Observation) string { return string(rune('1' + step)) }))

	f := mustOpen(t, c)
	defer f.Close()
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
	e, _ := begin(t, f)
	step, err := e.Step(t.Context(), guess)
	if err != nil {
		t.Fatal(err)
	}
	return step
}

// begin opens and resets an episode of the first task.
func begin(t *testing.T, f *Family) (envs.Episode, envs.Observation) {
	t.Helper()
	tasks, err := f.Tasks(envs.Train)
	if err != nil {
		t.Fatal(err)
	}
	e, err := f.Open(t.Context(), tasks[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	o, err := e.Reset(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e, o
}
