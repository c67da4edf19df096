package trainerbridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFlagsBecomeKeys(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := inKeys(text); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	f("use --device cpu, or auto", `use trainer.device = "cpu", or auto`)
	f("use --dtype bfloat16, a smaller model", `use trainer.dtype = "bfloat16", a smaller model`)
	f("start with --quantize none, or with --device cuda",
		`start with trainer.quantize = "none", or with trainer.device = "cuda"`)
	f("give --model a local directory", "give model.path a local directory")
	f("use --dtype bfloat16 or float32", `use trainer.dtype = "bfloat16" or float32`)
	f("a -- b --other c", "a -- b --other c")
	said := output{}
	said.line(`{"event": "fatal", "error": "the gradient: use --dtype float32", "hint": "use --device cpu, or auto"}`)
	if said.fatal != `the gradient: use trainer.dtype = "float32"` || said.hint != `use trainer.device = "cpu", or auto` {
		t.Errorf("%q, %q", said.fatal, said.hint)
	}
}

// Every flag in a hint of the trainer has a key, or the hint says something that does
// not need one.
func TestHintsOfTheTrainerHaveKeys(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("trainer", "empo2_trainer", "*.py"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if filepath.Base(file) == "__main__.py" { // it defines the flags
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			for _, m := range trainerFlag.FindAllStringSubmatch(inKeys(line), -1) {
				if m[1] != "port" && m[1] != "host" { // empo2 chooses them
					t.Errorf("%s: --%s has no key: %s", file, m[1], strings.TrimSpace(line))
				}
			}
		}
	}
}
