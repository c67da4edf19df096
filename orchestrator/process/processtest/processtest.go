// Package processtest checks what a child process inherits. Start with [Spy].
package processtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// secrets are variables that no child may inherit unless the user names them.
var secrets = []string{
	"EMPO2_SERVER_KEY", "EMPO2_ENV_KEY", "EMPO2_EMBEDDER_KEY", "EMPO2_MEMORY_KEY", "EMPO2_TRAINER_KEY",
	"EMPO2_ANYTHING", "OPENAI_API_KEY", "HF_TOKEN",
	"ANTHROPIC_API_KEY", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "WANDB_API_KEY", "DATABASE_URL", "SSH_AUTH_SOCK",
	"VLLM_API_KEY", "SGLANG_API_KEY", "LLAMA_API_KEY", "CUDA_SECRET", "SOME_VARIABLE",
	"PYTHONHOME", "PYTHONSTARTUP", "PYTHONIOENCODING", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH",
	"PIP_TARGET", "PIP_PREFIX", "LANG", "LC_CTYPE",
}

const hidden = "/from-outside"

// Spy sets secrets in this process's environment and returns a program that writes its
// own environment to a file and fails. check reads it, requires the variables in want
// (KEY=VALUE), and reports secrets and those in without.
func Spy(t *testing.T, want ...string) (program string, check func(without ...string)) {
	t.Helper()
	for _, name := range secrets {
		t.Setenv(name, hidden)
	}
	dir := t.TempDir()
	program, file := filepath.Join(dir, "program"), filepath.Join(dir, "environment")
	script := "#!/bin/sh\nenv >'" + file + "'\necho the spy ends; exit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return program, func(without ...string) {
		t.Helper()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("the program did not run: %v", err)
		}
		env := strings.Split(string(text), "\n")
		for _, kv := range env {
			name, value, _ := strings.Cut(kv, "=")
			if value == hidden || slices.Contains(without, name) {
				t.Errorf("%s is inherited", name)
			}
		}
		for _, kv := range append(want, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME")) {
			if !slices.Contains(env, kv) {
				t.Errorf("%s is missing", kv)
			}
		}
	}
}
