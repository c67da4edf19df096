package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"empo2": mainWithFailPoints, "fakepython": fakePython, "fakevllm": fakeVLLM,
		"recordingserver": recordingServer})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(e *testscript.Env) error {
		e.Setenv("EMPO2_CACHE", e.WorkDir+"/cache")
		return nil
	}})
}

// Whole runs of the command against fakes.
func TestScenarios(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/scenario", Setup: withFakes, Cmds: scenarioCommands})
}

func TestExitCodes(t *testing.T) {
	f := func(want int, args ...string) {
		t.Helper()
		var out, err bytes.Buffer
		if got := execute(context.Background(), args, &out, &err); got != want {
			t.Errorf("empo2 %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, want, out.String(),
				err.String())
		}
	}
	t.Chdir(t.TempDir())
	t.Setenv("EMPO2_CACHE", t.TempDir())
	f(0, "version")
	f(0, "--version")
	f(0, "config")
	f(0, "--help")
	f(0, "run", "--help")
	f(0)
	f(exitUsage, "rum")
	f(exitUsage, "run", "--no-such-flag")
	f(exitUsage, "run", "-c", "missing.toml")
	f(exitUsage, "run", "--set", "run.stepz=3")
	f(exitUsage, "compare", "--profile", "demo", "--arms", "grpo,xyz")
	f(exitUsage, "compare", "--profile", "demo", "--arms", "grpo-time")
	f(exitUsage, "eval")
	f(exitUsage, "run") // no model is named
	f(exitUsage, "run", "--profile", "none")
	f(exitUsage, "run", "-c", ".")
	f(exitUsage, "run", "--profile", "cpu", "--set", "model.path="+t.TempDir())
	f(exitUsage, "eval", "--profile", "demo", "--temperature", "NaN")
	f(exitUsage, "eval", "--profile", "demo", "--temperature", "-2")
	f(exitUsage, "prompt", "--profile", "demo", "--set", "prompt.template=.")
	f(exitUsage, "init", "--model", t.TempDir(), "-o", "none/c.toml")
	t.Setenv("EMPO2_PYTHON", "/no/such/python")
	f(exitSetup, "run", "--profile", "demo")
	f(exitSetup, "doctor", "--profile", "demo")
}

// A mistake in the command line names the help of its command or another remedy.
func TestUsageHint(t *testing.T) {
	f := func(hint string, args ...string) {
		t.Helper()
		var out, err bytes.Buffer
		execute(context.Background(), args, &out, &err)
		if !strings.HasSuffix(err.String(), "\n  hint: "+hint+"\n") {
			t.Errorf("empo2 %s: %s", strings.Join(args, " "), err.String())
		}
	}
	f("empo2 --help", "rum")
	f("1 to 65535, or leave it out", "view", "--port", "99999")
	f("empo2 eval --help", "eval", "--split", "none")
	f("empo2 env serve --help", "env", "serve")
	f("empo2 memory --help", "memory")
	f("for example \"0-499, 700\"", "prompt", "--set", "env.name=agentgym", "--set", "env.agentgym.url=http://h",
		"--set", "env.agentgym.dialect=webshop", "--set", "env.agentgym.train=abc")
	f("at least 1", "compare", "--profile", "demo", "--jobs", "0")
	f("for example --houses 1,2", "compare", "--profile", "demo", "--houses", "")
}

func TestAMissingValueNamesItsFlag(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		var out, err bytes.Buffer
		execute(t.Context(), args, &out, &err)
		if err.String() != want {
			t.Errorf("%q, want %q", err.String(), want)
		}
	}
	f("empo2: --set needs a value\n  hint: empo2 run --help\n", "run", "--set")
	f("empo2: --scope needs a value\n  hint: empo2 tips --help\n", "tips", "vault", "--scope")
	f("empo2: --k needs a value\n  hint: empo2 try --help\n", "try", "-k")
}

// An interrupted command prints a message and has its own exit code.
func TestInterrupted(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("EMPO2_CACHE", t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out, err bytes.Buffer
	if got := execute(ctx, []string{"run", "--profile", "demo"}, &out, &err); got != exitInterrupted ||
		!strings.Contains(err.String(), "continues") {
		t.Errorf("exit code %d: %s", got, err.String())
	}
	if _, err := os.Stat("runs"); err == nil {
		t.Error("a run was started")
	}
}
