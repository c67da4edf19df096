package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
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

// shell finds a shell that the machine may have.
func shell(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("NOT TESTED: completion in a real %s, because there is none", name)
	}
	return path
}

// shellIn prepares a folder with the script, and with a program empo2 that knows two runs. It
// returns a function that runs a script of the shell there.
func shellIn(t *testing.T, name string) func(script string, words ...string) string {
	program := shell(t, name)
	dir := t.TempDir()
	for file, text := range map[string]string{
		"script": completionOf(t, name), "file.txt": "",
		"bin/empo2": "#!/bin/sh\n[ \"$*\" = \"completion runs\" ] && printf 'vault\\nvault-2\\n'\n",
	} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return func(script string, words ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, words...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(script)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"), "HOME="+dir, "TERM=dumb")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
}

// A real fish completes with the script: flags belong to the command that was typed, and a
// run may have the name of a command.
func TestCompletionInFish(t *testing.T) {
	run := shellIn(t, "fish")
	f := func(line string, want, not []string) {
		t.Helper()
		out := run("source script; complete -C '"+line+"'", "--no-config")
		checkWords(t, line, wordsOf(out), want, not)
	}
	f("empo2 ", []string{"run", "show", "completion"}, []string{"--from-step", "file.txt", "training"})
	f("empo2 ru", []string{"run"}, []string{"show"})
	f("empo2 show run --", []string{"--json", "--kind"}, []string{"--from-step"})
	f("empo2 show run ", []string{"vault"}, []string{"show"})
	f("empo2 eval --split ", []string{"eval", "train", "test"}, []string{"file.txt", "--json"})
	f("empo2 run --profile ", []string{"cpu", "demo"}, []string{"file.txt"})
	f("empo2 run --set run.s", []string{"run.steps="}, []string{"rollout.max_tokens="})
	f("empo2 run --config ", []string{"file.txt"}, nil)
	f("empo2 memory ", []string{"export", "import"}, []string{"run", "file.txt"})
	f("empo2 memory export ", nil, []string{"import", "vault"})
	f("empo2 memory export --", []string{"--set"}, []string{"--names", "--force"}) // those of empo2 export
	f("empo2 memory pin ", []string{"vault", "vault-2"}, []string{"export"})
	f("empo2 backup vault ", []string{"file.txt"}, nil)
	f("empo2 completion ", []string{"bash", "zsh", "fish"}, []string{"vault"})
}

// wordsOf returns what fish offers, without the descriptions.
func wordsOf(out string) (words []string) {
	for line := range strings.Lines(out) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
		words = append(words, word)
	}
	return words
}

func checkWords(t *testing.T, line string, got, want, not []string) {
	t.Helper()
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("%q: %q is not among %q", line, w, got)
		}
	}
	for _, w := range not {
		if slices.Contains(got, w) {
			t.Errorf("%q: %q is among %q", line, w, got)
		}
	}
}

// A real zsh calls the function, which finds the program. Only keys have no space behind them.
func TestCompletionInZsh(t *testing.T) {
	run := shellIn(t, "zsh")
	f := func(want, not []string, words ...string) {
		t.Helper()
		// What bashcompinit makes of a completion that it is asked for.
		const probe = `autoload() { :; }; bashcompinit() { :; }; complete() { :; }
compgen() { local w; for w in ${=2}; do [[ "$w" == "$4"* ]] && print -r -- "$w"; done; }
source ./script
setopt local_options ksh_arrays sh_word_split
COMP_WORDS=(%s); COMP_CWORD=%d; _empo2; print -rl -- "${COMPREPLY[@]}"
`
		quoted := make([]string, len(words)+1)
		for i, w := range append([]string{"empo2"}, words...) {
			quoted[i] = "'" + w + "'"
		}
		out := run(fmt.Sprintf(probe, strings.Join(quoted, " "), len(words)), "-f", "-s")
		checkWords(t, strings.Join(words, " "), strings.Split(strings.TrimSuffix(out, "\n"), "\n"), want, not)
	}
	f([]string{"run ", "show "}, []string{"--from-step "}, "")
	f([]string{"vault ", "vault-2 ", "--json "}, nil, "show", "")
	f([]string{"eval ", "test "}, []string{"--json "}, "eval", "--split", "")
	f([]string{"run.steps="}, []string{"run.steps= "}, "run", "--set", "run.s")
	f([]string{"vault "}, []string{"export "}, "memory", "pin", "")
}

// Texts in the script for fish are quoted.
func TestTextsForFishAreQuoted(t *testing.T) {
	fish := completionOf(t, "fish")
	for _, want := range []string{
		`complete -c empo2 -n '__empo2_at \'\'' -a run -d 'Train, or continue a run.'` + "\n",
		`complete -c empo2 -n '__empo2_at \'show\'' -a '(empo2 completion runs 2> /dev/null)' -d run` + "\n",
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
