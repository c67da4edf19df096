package orchestrator

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// leaves are packages that import nothing of ours, so that all may use them.
var leaves = []string{"orchestrator/process", "orchestrator/jsonhttp", "orchestrator/manifest", "orchestrator/watchdog",
	"orchestrator/safetext", "orchestrator/jsonhttp/faultyhttp", "orchestrator/culprit"}

// importRules say what a package and the packages below it may import. The
// first rule that fits a package counts. An entry "x/..." is x and everything
// below it, "*" is everything.
var importRules = []struct{ of, may, why string }{
	{"orchestrator/cmd", "*",
		"the command wires everything, so that nothing else has to know an implementation"},
	{"orchestrator/process", "orchestrator/watchdog orchestrator/safetext",
		"child processes are started everywhere, and a start may stall"},
	{"orchestrator/watchdog", "", "everything may stall, so this package imports nothing of ours"},
	{"orchestrator/jsonhttp", "orchestrator/safetext", "HTTP is spoken everywhere, and servers' texts are shown"},
	{"orchestrator/safetext", "", "every package shows texts from outside, so this package imports nothing of ours"},
	{"orchestrator/manifest", "orchestrator/safetext", "files are verified by the trainer's client and by the ledger"},
	{"orchestrator/culprit", "", "a search knows no rows and no trainer"},
	{"orchestrator/advantage", "", "estimators are pure functions"},
	{"orchestrator/ledger", "", "the ledger stores values and does not interpret them"},
	{"orchestrator/config", "", "configuration is data; the command interprets it"},
	{"orchestrator/inspect", "", "it looks at files and hardware, and the command draws the conclusions"},
	{"orchestrator/forecast", "orchestrator/config orchestrator/inspect",
		"a forecast is computed from what others have measured or know"},
	{"orchestrator/report", "orchestrator/ledger", "a report shows what is in the ledger"},
	{"orchestrator/telemetry", "orchestrator orchestrator/ledger orchestrator/telemetry/... sampler/rollout",
		"what a run measures is written for other programs, whatever they are"},
	{"orchestrator/view", "orchestrator orchestrator/ledger orchestrator/report memory " +
		"sampler sampler/prompt sampler/rollout",
		"a view interprets what the loop has stored, and does not know how it is shown"},
	{"orchestrator/page", "orchestrator orchestrator/config orchestrator/ledger orchestrator/report orchestrator/view " +
		"sampler sampler/chat sampler/prompt sampler/rollout",
		"the page shows what a view returns; the command asks the memory and the tokenizer"},
	{"orchestrator/demos", "orchestrator/ledger envs sampler/chat sampler/prompt sampler/rollout",
		"demonstrations are conversations, whatever is trained on them"},
	{"orchestrator/warmstart", "orchestrator/demos sampler/chat sampler/rollout trainer_bridge",
		"a warm start knows conversations and a trainer; the command knows the run"},
	{"orchestrator", "orchestrator/advantage orchestrator/config orchestrator/ledger envs memory trainer_bridge " +
		"sampler sampler/chat sampler/prompt sampler/rollout",
		"the loop knows interfaces, never a backend, an environment, a strategy or a trainer"},

	{"sampler/chat/chattest", "sampler/chat sampler/samplertest",
		"the reference templates serve tests of chat and rollout"},
	{"sampler/chat", "", "messages and templates are known to every backend, so they know none of them"},
	{"sampler/prompt", "sampler/chat envs",
		"a prompt is made of an observation and does not depend on the server"},
	{"sampler/rollout", "sampler sampler/chat sampler/prompt envs",
		"an episode knows the contract of a backend, never a backend"},
	{"sampler/fleet/fleettest", "sampler sampler/chat sampler/samplertest/...",
		"the suite knows the contract and the fake servers"},
	{"sampler/admission", "", "requests are admitted the same way for every server"},
	{"sampler/fleet", "sampler sampler/admission sampler/chat",
		"replicas are any server's; what differs is given by the backend"},
	{"sampler/samplertest", "sampler sampler/chat sampler/samplertest/...",
		"the suite knows the contract, never a backend"},
	{"sampler/vllm", "sampler sampler/chat sampler/fleet", backendKnows},
	{"sampler/sglang", "sampler sampler/chat sampler/fleet", backendKnows},
	{"sampler/", "sampler sampler/admission sampler/chat", backendKnows},
	{"sampler", "sampler/chat", "the contract names what is asked, not where it comes from"},

	{"memory", "memory/...", "the memory knows nothing of environments, servers and the trainer"},
	{"trainer_bridge", "trainer_bridge/...", "the bridge knows nothing of environments, servers and the memory"},
	{"envs", "envs/...", "environments know nothing of servers, the memory and the trainer"},
}

const backendKnows = "a backend knows the contract; it compiles without episodes, prompts and other backends"

func TestImportsGoDownOnly(t *testing.T) {
	used := make([]bool, len(importRules))
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module)
		rule := slices.IndexFunc(importRules, func(r struct{ of, may, why string }) bool {
			return path == r.of || strings.HasPrefix(path, strings.TrimSuffix(r.of, "/")+"/")
		})
		if rule < 0 {
			t.Errorf("%s: no rule says what it may import", path)
			continue
		}
		used[rule] = true
		for _, imported := range p.Imports {
			in, ours := strings.CutPrefix(imported, module)
			free := slices.Contains(leaves, in) && !slices.Contains(leaves, path)
			if ours && !free && !allowed(in, importRules[rule].may) {
				t.Errorf("%s imports %s: %s", path, in, importRules[rule].why)
			}
		}
	}
	for i, rule := range importRules {
		if !used[i] {
			t.Errorf("the rule for %s fits no package", rule.of)
		}
	}
}

func allowed(imported, may string) bool {
	return slices.ContainsFunc(strings.Fields(may), func(m string) bool {
		tree, below := strings.CutSuffix(m, "/...")
		return m == "*" || imported == tree || below && strings.HasPrefix(imported, tree+"/")
	})
}

func TestImportRulesCanFail(t *testing.T) {
	f := func(imported, may string, want bool) {
		t.Helper()
		if got := allowed(imported, may); got != want {
			t.Errorf("%s may be imported under %q: %t", imported, may, got)
		}
	}
	f("sampler/vllm", "*", true)
	f("sampler/vllm", "sampler sampler/chat", false)
	f("sampler/chat", "sampler sampler/chat", true)
	f("envs/vault", "envs/...", true)
	f("envs", "envs/...", true)
	f("envsother", "envs/...", false)
	f("envs/vault", "envs", false)
	f("sampler", "", false)
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// backendNames are inference servers as flags, keys and hints name them. The
// architecture "llama" of a model is not a server.
var backendNames = regexp.MustCompile(
	`(?i)vllm|sglang|llama[.-]?cpp|llama-server|ollama|openai|--(max|enable|no|logprobs|cache|gpu|served)-`)

// Advice that names a server's flags or keys comes from the backend
// ([sampler.Capabilities]).
func TestTheLoopNamesNoBackend(t *testing.T) {
	read := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(mayNameBackends, path):
			return fs.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		read++
		text, err := os.ReadFile(path)
		for n, line := range strings.Split(string(text), "\n") {
			if name := backendNames.FindString(line); name != "" {
				t.Errorf("%s:%d names %q: %s", path, n+1, name, strings.TrimSpace(line))
			}
		}
		return err
	})
	if err != nil || read == 0 {
		t.Errorf("%d files read, %v", read, err)
	}
}

// mayNameBackends are the command, the keys of the configuration, and the leaf
// packages, which know no backend but explain themselves with one.
var mayNameBackends = []string{"cmd", "config", "process", "jsonhttp"}

// The top level is fixed.
func TestTopLevel(t *testing.T) {
	want := " go.mod go.sum orchestrator sampler memory trainer_bridge envs config.toml scripts README.md " +
		".ci .gitignore LICENSE "
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
