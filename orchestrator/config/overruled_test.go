package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key of a file that only a --set makes ineffective is noted and has its default. A key that has no effect in its
// file, or that was set itself, is an error.
func TestKeysThatASetOverrules(t *testing.T) {
	f := func(text string, sets []string, note, fault string) Config {
		t.Helper()
		path := filepath.Join(t.TempDir(), "my.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var notes []string
		c, err := Source{Profile: Demo, Files: []string{path}, Sets: sets,
			Note: func(text string) { notes = append(notes, text) }}.Load()
		if fault == "" && err != nil || fault != "" && (err == nil || !strings.Contains(err.Error(), fault)) {
			t.Errorf("%v: %v, want %q", sets, err, fault)
		}
		if all := strings.Join(notes, "; "); (note == "") != (all == "") || !strings.Contains(all, note) {
			t.Errorf("%v: notes %q, want %q", sets, all, note)
		}
		return c
	}
	const k = "[memory]\nk = 7\n"
	grpo := "algorithm.name=grpo"
	if c := f(k, []string{grpo}, "my.toml: memory.k has no effect beside --set", ""); c.Memory.K == 7 {
		t.Error("memory.k was kept")
	}
	f(k, nil, "", "")
	f(k, []string{"run.steps=3"}, "", "")
	f("", []string{grpo, "memory.k=7"}, "", "memory.k: has no effect")
	f("[algorithm]\nname = \"grpo\"\n"+k, []string{"run.steps=3"}, "", "has no effect")
}

// A value of a wrong type is named in plain words.
func TestWrongTypesInPlainWords(t *testing.T) {
	f := func(set, want string) {
		t.Helper()
		_, err := Source{Profile: Demo, Sets: []string{set}}.Load()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "int64") ||
			strings.Contains(err.Error(), "slice") {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	f("env.vault.houses=3", "the value is a whole number, not a list")
	f(`env.vault.houses=["a"]`, "an item of the list is a string, not a whole number")
	f("rollout.stop=[1]", "an item of the list is a whole number, not a string")
	f("sampler.vllm.urls=true", "the value is true or false, not a list")
	f("sampler.vllm.env={}", "the value is a table, not a list")
	f("run.steps=1.5", "the value is a number, not a whole number")
	f("loss.kl=[1.0]", "the value is a list, not a number")
}
