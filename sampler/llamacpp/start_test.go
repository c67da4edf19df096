package llamacpp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/empo2/empo2/orchestrator/process"
	"github.com/empo2/empo2/orchestrator/process/processtest"
)

func testStartErrors(t *testing.T, r *real) {
	f := func(name, wantErr string, change func(*Config)) {
		t.Helper()
		cfg := r.config()
		change(&cfg)
		b, err := Open(t.Context(), cfg)
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s: %v, want %q", name, err, wantErr)
		}
	}
	f("no interpreter", "no-such-python", func(c *Config) { c.Python = "/no-such-python" })
	f("a program that is not Python", "llama-server ended: exit status", func(c *Config) { c.Python = "false" })
	f("header without tensors", "hint: ", func(c *Config) { c.BaseGGUF = writeGGUF(t, baseKeys("qwen2")...) })
	f("cut short", "the file is cut short\n  hint: delete the file", func(c *Config) {
		whole, err := os.ReadFile(r.gguf)
		if err != nil {
			t.Fatal(err)
		}
		c.BaseGGUF = filepath.Join(t.TempDir(), "cut.gguf")
		if err := os.WriteFile(c.BaseGGUF, whole[:len(whole)/2], 0o644); err != nil {
			t.Fatal(err)
		}
	})
	f("no module", "hint: this Python has no xllamacpp", func(c *Config) { c.Python = pythonWithoutPackages(t) })
	f("no time", "not ready within", func(c *Config) { c.StartTimeout = time.Millisecond })
}

func testConverted(t *testing.T, r *real) {
	again, err := EnsureBaseGGUF(t.Context(), converter("/no-such-python"), r.model, filepath.Dir(r.gguf))
	if err != nil || again != r.gguf {
		t.Errorf("%s, %v, want %s", again, err, r.gguf)
	}
	_, err = EnsureBaseGGUF(t.Context(), converter("/no-such-python"), r.model, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "no-such-python") {
		t.Errorf("another cache: %v", err)
	}
}

// pythonWithoutPackages writes a script that runs Python without installed packages.
func pythonWithoutPackages(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "python")
	script := "#!/bin/sh\nexec " + os.Getenv("EMPO2_PYTHON") + " -S \"$@\"\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHints(t *testing.T) {
	for text, hint := range map[string]string{
		"ImportError: libgomp.so.1: cannot open shared object file: No such file or directory": "apt install libgomp1",
		"E llama_init: model arch and LoRA arch mismatch":                                      "another base model",
		"E x: LoRA tensor 'y' does not exist in base model (hint: maybe wrong base model?)":    "another base model",
		"E load: tensor 'blk.0.attn_q.weight' has incorrect shape":                             "another base model",
		"E main: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 0":               "no free port",
		"ggml_aligned_malloc: unable to allocate CPU buffer":                                   "not enough memory",
		process.IllegalInstruction: "AVX2",
		process.KilledBySystem:     "out of memory",
	} {
		if got := process.HintFor(text, exitHints); !strings.Contains(got, hint) {
			t.Errorf("%s: hint %q, want %q", text, got, hint)
		}
	}
}

// The server gets its own key, but neither other keys of this process nor Python's
// variables.
func TestTheServersEnvironment(t *testing.T) {
	t.Setenv("GGML_SCHED_DEBUG", "0")
	t.Setenv("NAMED", "by the user")
	program, check := processtest.Spy(t, "GGML_SCHED_DEBUG=0", "NAMED=by the user", "OMP_WAIT_POLICY=passive")
	l := launch{Model: filepath.Join(t.TempDir(), "m.gguf"), inherit: []string{"NAMED"}, timeout: time.Minute}
	python, binary := l, l
	python.python, binary.binary = program, program
	for _, l := range []launch{python, binary} {
		if _, err := startProcess(t.Context(), l); err == nil {
			t.Error("the server started")
		}
		check("HTTPS_PROXY")
	}
}
