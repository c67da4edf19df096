package trainerbridge

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConvertsBase(t *testing.T) {
	f := func(architecture, rope string, want bool) {
		t.Helper()
		if got, known := ConvertsBase(architecture, rope); got != want || slices.Contains(known, "gpt_oss") {
			t.Errorf("%s with %q: %v, known are %v", architecture, rope, got, known)
		}
	}
	f("llama", "", true)
	f("llama", "llama3", true)
	f("qwen2", "yarn", true)
	f("qwen2", "llama3", false)
	f("phi3", "longrope", false)
	f("gpt_oss", "", false)
	f("gpt2", "", false)
	if ok, known := WritesAdapters("gpt_oss"); !ok || !slices.Contains(known, "gpt_oss") {
		t.Errorf("adapters of gpt_oss: %v, %v", ok, known)
	}
	if ok, _ := WritesAdapters("gpt2"); ok {
		t.Error("adapters of gpt2")
	}
}

// The table is the trainer's.
func TestArchitecturesAreTheTrainers(t *testing.T) {
	python := os.Getenv("EMPO2_PYTHON")
	if python == "" {
		t.Skip("NOT RUN: EMPO2_PYTHON names no Python with the trainer's packages; scripts/test sets it")
	}
	cmd := exec.Command(python, "-c", "import json; from empo2_trainer import gguf_arch as g; print(json.dumps("+
		"[{k: a.base for k, a in g.ARCHITECTURES.items()}, g.ROPES, g.LLAMA3_ROPE]))")
	cmd.Dir, cmd.Stderr = "trainer", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var theirs struct {
		architectures     map[string]bool
		ropes, llama3Rope []string
	}
	if err := json.Unmarshal(out, &[]any{&theirs.architectures, &theirs.ropes, &theirs.llama3Rope}); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]any{
		{architectures, theirs.architectures}, {ropes[1:], theirs.ropes}, {llama3Rope, theirs.llama3Rope},
	} {
		sort := func(v any) any {
			if s, ok := v.([]string); ok {
				return slices.Sorted(slices.Values(s))
			}
			return v
		}
		if diff := cmp.Diff(sort(pair[1]), sort(pair[0])); diff != "" {
			t.Error(diff)
		}
	}
}
