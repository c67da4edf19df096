package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A real bash completes commands, flags, values and keys with the script.
func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	script := filepath.Join(t.TempDir(), "completion.bash")
	if err := os.WriteFile(script, []byte(completionOf(t, "bash")), 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(want []string, not string, words ...string) {
		t.Helper()
		const probe = `source "$1"; shift
empo2() { [[ "$*" == "completion runs" ]] && printf 'vault\nvault-2\n'; }
COMP_WORDS=(empo2 "$@"); COMP_CWORD=$#; _empo2; printf '%s\n' "${COMPREPLY[@]}"`
		args := append([]string{"-c", probe, "bash", script}, words...)
		out, err := exec.CommandContext(t.Context(), bash, args...).CombinedOutput()
		got := strings.Fields(string(out))
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, w := range want {
			if !slices.Contains(got, w) {
				t.Errorf("%q: %q is not among %q", words, w, got)
			}
		}
		if not != "" && slices.Contains(got, not) {
			t.Errorf("%q: %q is among %q", words, not, got)
		}
	}
	f([]string{"run", "show", "completion", "--version"}, "--from-step", "")
	f([]string{"run"}, "show", "ru")
	f([]string{"--from-step", "--json", "--set"}, "show", "run", "--")
	f([]string{"eval", "train", "test"}, "--json", "eval", "--split", "")
	f([]string{"cpu", "demo"}, "--json", "run", "--profile", "")
	f([]string{"run.steps="}, "rollout.max_tokens=", "run", "--set", "run.s")
	f([]string{"export", "import"}, "run", "memory", "")
	f([]string{"vault", "vault-2", "--json"}, "", "show", "")
	f([]string{"vault", "vault-2"}, "--json", "export", "va")
	f([]string{"--json"}, "vault", "show", "--")
	f([]string{"training"}, "vault", "show", "--kind", "")
	f([]string{"vault"}, "", "memory", "pin", "")
	f([]string{"--help"}, "vault", "ls", "")
	f([]string{"--set"}, "", "memory", "export", "--s")
}

func TestCompletionInOtherShells(t *testing.T) {
	if got := completionOf(t, "zsh"); !strings.HasPrefix(got, "autoload -U +X bashcompinit && bashcompinit\n_empo2() {") {
		t.Errorf("zsh: %.200s", got)
	}
	fish := completionOf(t, "fish")
	for _, want := range []string{
		"complete -c empo2 -n '__fish_use_subcommand' -a run -d 'Train, or continue a run.'\n",
		"complete -c empo2 -n '__fish_seen_subcommand_from eval' -l split -d",
		"complete -c empo2 -n '__fish_seen_subcommand_from memory; and __fish_seen_subcommand_from export'",
		"complete -c empo2 -n '__fish_seen_subcommand_from show' -a '(empo2 completion runs 2> /dev/null)' -d run\n",
		`Evaluate a run\'s newest version`,
	} {
		if !strings.Contains(fish, want) {
			t.Errorf("%q is not in the script for fish", want)
		}
	}
}

func completionOf(t *testing.T, shell string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := execute(context.Background(), []string{"completion", shell}, &stdout, &stderr); code != 0 {
		t.Fatalf("completion %s: %s", shell, stderr.String())
	}
	return stdout.String()
}

// The scripts ask for the runs in run.dir.
func TestRunsToComplete(t *testing.T) {
	t.Chdir(t.TempDir())
	if got := completionOf(t, "runs"); got != "" {
		t.Errorf("without a folder: %q", got)
	}
	for _, dir := range []string{"runs/vault", "runs/study/seed1", "runs/ab/0123456789ab", "runs/none"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if dir == "runs/none" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "run.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := completionOf(t, "runs"); got != "study/seed1\nvault\n" {
		t.Errorf("got %q", got)
	}
}
