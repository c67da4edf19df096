package orchestrator

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/empo2/empo2/"

// goPackage is what the rules need of go list's output.
type goPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports", "./...")
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// leaves are packages that import nothing of ours and may be used by everyone.
var leaves = []string{"orchestrator/jsonhttp"}

// Imports go down only: cmd → orchestrator → {advantage, ledger, config,
// report, sampler, memory, trainer_bridge, envs}. The lower four know nothing
// of each other, except that sampler may import envs.
func TestImportsGoDownOnly(t *testing.T) {
	rules := []struct{ from, may, why string }{
		{"orchestrator/cmd/", "", "the command wires everything"},
		{"orchestrator/jsonhttp", "orchestrator/jsonhttp", "everybody uses it, so it uses nobody"},
		{"orchestrator/advantage", "orchestrator/advantage", "pure functions"},
		{"orchestrator/ledger", "orchestrator/ledger", "the ledger stores what it is given"},
		{"orchestrator/config", "orchestrator/config", "configuration is data"},
		{"orchestrator/report", "orchestrator/report", "a report draws what it is given"},
		{"orchestrator", "orchestrator/advantage orchestrator/ledger orchestrator/config sampler memory trainer_bridge envs", "the loop knows interfaces, never implementations"},
		{"sampler/", "sampler envs", "a backend knows the sampler"},
		{"sampler", "envs", "the sampler may know environments, nothing else"},
		{"memory", "memory", "the memory stands alone"},
		{"trainer_bridge", "trainer_bridge", "the bridge stands alone"},
		{"envs", "envs", "environments stand alone"},
	}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		for _, r := range rules {
			if path != r.from && !strings.HasPrefix(path, strings.TrimSuffix(r.from, "/")+"/") {
				continue
			}
			for _, imported := range p.Imports {
				if in, ok := strings.CutPrefix(imported, module); ok && r.may != "" && !allowed(in, r.may, r.from) {
					t.Errorf("%s imports %s: %s", path, in, r.why)
				}
			}
			break
		}
	}
}

// allowed reports whether an import is one of may: exactly, or below it when
// the importer's own tree is meant.
func allowed(imported, may, from string) bool {
	for _, m := range append(strings.Fields(may), leaves...) {
		own := m == strings.TrimSuffix(from, "/")
		if imported == m || own && strings.HasPrefix(imported, m+"/") {
			return true
		}
	}
	return false
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// The top level is fixed.
func TestTopLevel(t *testing.T) {
	want := " go.mod go.sum orchestrator sampler memory trainer_bridge envs config.toml scripts README.md .ci .gitignore LICENSE "
	out, err := exec.Command("git", "-C", "..", "ls-files").Output()
	if err != nil {
		t.Skip("not a git checkout:", err)
	}
	for _, file := range strings.Fields(string(out)) {
		if top, _, _ := strings.Cut(filepath.ToSlash(file), "/"); !strings.Contains(want, " "+top+" ") {
			t.Errorf("%s does not belong to the top level", file)
		}
	}
}
