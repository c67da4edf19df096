package config

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite config.toml from the defaults")

// load reads files and sets on a machine without a GPU.
func load(profile string, files, sets []string) (Config, error) {
	return Source{Profile: profile, Files: files, Sets: sets}.Load()
}

// writeFile writes a file into a folder of the test and returns its path.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const templateHeader = `# empo2: the demonstration. Each key below is commented out and shows its value ` +
	`in this profile: remove the "#"
# in front of a key to change it. For your own model: empo2 init --model DIR.
# An unknown key, or one that has no effect under the other settings, is an error.

`

// writeTemplate writes a file that selects a profile. All other keys are
// comments with their values in that profile.
func writeTemplate(w io.Writer, profile string) error {
	c, err := Source{Profile: profile}.Load()
	if err != nil {
		return err
	}
	return write(w, c, templateHeader, "#")
}

// config.toml at the top of the repository is the demonstration, with every key
// in a comment.
func TestShippedFileIsTheDemonstration(t *testing.T) {
	const path = "../../config.toml"
	var b strings.Builder
	if err := writeTemplate(&b, Demo); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("config.toml is not what the program writes (go test ./orchestrator/config -update):\n%s", diff)
	}
	c, err := load("", []string{path}, nil)
	if err != nil {
		t.Fatal(err)
	}
	demo, err := load(Demo, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(demo, c); diff != "" {
		t.Errorf("config.toml does not load as the demonstration:\n%s", diff)
	}
	uncommented := regexp.MustCompile(`(?m)^#(\S+ = )`).ReplaceAllString(string(got), "$1")
	if c, err = load("", []string{writeFile(t, "all.toml", uncommented)}, nil); err != nil || cmp.Diff(demo, c) != "" {
		t.Errorf("with every key given: %v\n%s", err, cmp.Diff(demo, c))
	}
}

// badFile loads a file, which must fail with a hint.
func badFile(t *testing.T, text, wantPlace, wantMsg string) {
	t.Helper()
	_, err := load("", []string{writeFile(t, "c.toml", text)}, nil)
	if err == nil {
		t.Errorf("%q: accepted", text)
		return
	}
	if msg := err.Error(); !strings.Contains(msg, wantPlace) || !strings.Contains(msg, wantMsg) ||
		!strings.Contains(msg, "hint: ") {
		t.Errorf("%q:\n%s\nwants %q, %q and a hint", text, msg, wantPlace, wantMsg)
	}
}

func TestBadFiles(t *testing.T) {
	f := func(text, wantPlace, wantMsg string) {
		t.Helper()
		badFile(t, text, wantPlace, wantMsg)
	}
	f("[run]\nstep = 3\n", "c.toml:2", `"run.steps"`)
	f("[memroy]\nk = 3\n", "c.toml:1", `unknown key "memroy`)
	f("[run]\nlearning_rate = 3\n", "c.toml:2", `"optimizer.learning_rate"`)
	f("[run]\nsteps = \"many\"\n", "c.toml:2", "run.steps is of type integer")
	f("[run\n", "c.toml:2", "table name")
	f("[run]\nsteps = -1\n", "run.steps", "out of range")
	f("[optimizer]\nlearning_rate = nan\n", "optimizer.learning_rate", "out of range")
	f("[loss]\naverage = \"tokens\"\n", "loss.average", `unknown value "tokens"`)
	f("[loss]\nlogprob_floor = -inf\n", "loss.logprob_floor", "-1e30")
	f("[loss]\nkl = inf\n", "loss.kl", "out of range")
	f("[algorithm]\nmemory_probability = 0.01\n", "algorithm.memory_probability", "gives no episode")
	f("[loss]\nlogprob_floor = 5\n", "loss.logprob_floor", "not a log-prob")
	f("[algorithm]\nmode_draw = \"group\"\n", "algorithm.baseline", "needs mixed groups")
	f("[algorithm]\nmemory_probability = 1.0\n", "algorithm.memory_probability", "no episode without tips")
	f("[algorithm]\nname = \"grpo\"\n[memory]\nk = 5\n", "memory.k", "has no effect")
	f("[loss]\nkl_estimator = \"k3\"\n", "loss.kl_estimator", "has no effect")
	f("[memory]\nurl = \"http://127.0.0.1:1\"\n", "memory.url", "has no effect")
	f("[memory]\nembedder = \"ollama\"\n", "memory.url", "is empty")
	f("[memory]\nstrategy = \"bank\"\n", "memory.strategy", "one of tips, credit, none, rememberer")
	f("[memory]\nstrategy = \"none\"\n", "memory.strategy", "without the memory that it trains with")
	f("[memory]\nstrategy = \"jitrl\"\n", "memory.strategy", "cannot be trained on")
	f("[memory]\nstrategy = \"http\"\n", "memory.http.url", "is empty")
	f("[memory]\nstrategy = \"gated\"\nk = 1\n", "memory.k", "one has no order")
	f("[memory]\nstrategy = \"memento\"\nk = 50\n", "memory.memento.candidates", "less than memory.k")
	f("[memory]\nstrategy = \"http\"\nhttp.url = \"http://127.0.0.1:1\"\n[rollout]\nmax_staleness = 1\n",
		"rollout.max_staleness", "a memory over HTTP cannot show")
	f("[memory]\nstrategy = \"umem\"\n[memory.gated]\nrate = 0.1\n", "memory.gated.rate", "has no effect")
	f("[memory.umem]\nnoise = 2.0\n", "memory.umem.noise", "memory.strategy is \"tips\"")
	f("[memory]\nstrategy = \"umem\"\n[memory.umem]\nweight = 0.0\nnoise = 2.0\n", "memory.umem.noise", "weight is 0")
	f("[memory]\nstrategy = \"reflexion\"\nthreshold = 0.7\n", "memory.threshold", "compares no vectors")
	f("[memory]\nstrategy = \"rememberer\"\n[reflection]\nmax_tokens = 9\n", "reflection.max_tokens", "stores no tips")
	f("[memory]\nstrategy = \"umem\"\n[novelty]\ncap = 4\n", "novelty.cap", "has no effect")
	f("[memory]\ncontrol = 0.5\n", "memory.control", "has no effect")
	f("[algorithm]\nname = \"adapt\"\ngroup_size = 4\n[memory]\nstrategy = \"umem\"\ncontrol = 0.05\n", "memory.control",
		"gives 0 of the 4")
	f("[rollout]\ntemperature = 0.7\n", "rollout.temperature", "temperature 1")
	f("[rollout]\ntop_p = 0.9\n", "rollout.top_p", "whole distribution")
	f("[rollout]\ntop_k = 40\n", "rollout.top_k", "whole distribution")
	f("[rollout]\nstop = [\"\"]\n", "rollout.stop", "empty string")
	f("[eval]\ntop_p = 0.0\n", "eval.top_p", "out of range")
	f("[model]\npath = \"/models/x.gguf\"\n", "model.path", "cannot be trained")
	f("[loss]\naverage_length = 100\n", "loss.average_length", "has no effect")
	f("[optimizer]\nschedule = \"step\"\n", "optimizer.schedule", "one of constant, linear, cosine")
	f("[optimizer]\nwarmup_steps = 300\n", "optimizer.warmup_steps", "not less than run.steps")
	f("[trainer]\ntarget_modules = []\n", "trainer.target_modules", "names no module")
	f("[trainer]\ntarget_modules = [\"all-linear\", \"q_proj\"]\n", "trainer.target_modules", "cannot be combined")
	f("[trainer]\ngpus = 0\n", "trainer.gpus", "out of range")
	f("[trainer]\ngpus = 2\ndevice = \"cuda:1\"\n", "trainer.gpus", "names one")
	f("[trainer]\ngpus = 2\nparallel = \"ddp\"\n", "trainer.parallel", "one of auto, data, fsdp2")
	f("[trainer]\nparallel = \"data\"\n", "trainer.parallel", "has no effect")
	f("[trainer]\ngpus = 2\nparallel = \"fsdp2\"\nquantize = \"nf4\"\n", "trainer.parallel", "cannot be sharded")
	f("[sampler]\ntemplate_args = \"[1]\"\n", "c.toml:2", "sampler.template_args is of type table")
	f("profile = \"gpu\"\n", "c.toml:1", "unknown profile \"gpu\"")
	f("[run]\nname = \"a/b\"\n", "run.name", "not a folder name")
	f("[run]\nname = \"a\\nb\"\n", "run.name", "not a folder name")
	f("[run]\nname = \".a.fork\"\n", "run.name", "begins with a dot")
	f("[sampler]\nbackend = \"openai\"\n", "sampler.backend", "nothing can be trained")
	f("profile = \"a\xff\"\n", "c.toml:1", "save the file as UTF-8")
}

func TestBadEnvironmentKeys(t *testing.T) {
	f := func(text, wantPlace, wantMsg string) {
		t.Helper()
		badFile(t, text, wantPlace, wantMsg)
	}
	f("[env.vault]\nlevers = 13\n", "env.vault.levers", "out of range")
	f("[env.webshop]\nmode = \"text_rich\"\n", "env.webshop.mode", "has no effect")
	f("[env]\nname = \"webshop\"\n", "env.webshop.data", "is empty")
	f("[env]\nname = \"remote\"\n", "env.remote.url", "is empty")
	f("[env]\nname = \"agentgym\"\n", "env.agentgym.url", "is empty")
	f("[env]\nname = \"agentgym\"\n[env.agentgym]\nurl = \"http://h\"\n", "env.agentgym.dialect", "is empty")
	f("[env]\nname = \"openenv\"\n", "env.openenv.url", "is empty")
	f("[env.openenv]\nconcurrency = 2\n", "env.openenv.concurrency", "has no effect")
	f("[env]\nname = \"ors\"\n", "env.ors.url", "is empty")
	f("[env]\nname = \"ors\"\n[env.ors]\nurl = \"http://h\"\ninput = \"{}\"\n", "env.ors.input",
		"no effect without env.ors.tool")
	f("[prompt]\ntemplate = \"\"\n", "prompt.template", "is empty")
	f("[env]\nname = \"scienceworld\"\n[env.scienceworld]\nreads = \"some\"\n", "env.scienceworld.reads",
		"unknown value")
}

func TestMissingFileHasAHint(t *testing.T) {
	_, err := load("", []string{filepath.Join(t.TempDir(), "none.toml")}, nil)
	if err == nil || !strings.Contains(err.Error(), "empo2 init --model") {
		t.Errorf("got %v", err)
	}
}

// A path that is not a text file is an error with a hint. Reading it ends.
func TestUnusualFiles(t *testing.T) {
	dir := t.TempDir()
	f := func(path, says string) {
		t.Helper()
		_, err := load("", []string{path}, nil)
		var fault *Error
		if !errors.As(err, &fault) || fault.Hint == "" || !strings.Contains(err.Error(), path+": "+says) {
			t.Errorf("%s: %v, want %q", path, err, says)
		}
	}
	f(dir, "is a folder")
	big := filepath.Join(dir, "big.toml")
	if err := os.WriteFile(big, bytes.Repeat([]byte("#"), maxFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	f(big, "is larger than 1 MB")
	socket := filepath.Join(dir, "s.toml")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Skip("no sockets in folders here:", err)
	}
	defer listener.Close()
	f(socket, "is not a file")
}

// --set sets only one key, even if its value contains others.
func TestSetOfOneKey(t *testing.T) {
	for _, set := range []string{"run.steps=1\nrun.seed=3", "run.steps=1\n[run]\nseed=3", "run.name=\"a\"\nv2=1"} {
		_, err := load("", nil, []string{set})
		if err == nil || !strings.Contains(err.Error(), "sets more than one key") {
			t.Errorf("%q: %v", set, err)
		}
	}
	if c, err := load("", nil, []string{"env.vault.houses=[1,\n 2]"}); err != nil || len(c.Env.Vault.Houses) != 2 {
		t.Errorf("a list of two lines: %v", err)
	}
}

func TestSet(t *testing.T) {
	c, err := load("", nil, []string{"algorithm.name=grpo", "env.vault.houses=[7, 8]", "run.steps = 3", "loss.kl=1",
		"run.name=7", `run.dir="a b"`})
	if err != nil {
		t.Fatal(err)
	}
	if c.Algorithm.Name != "grpo" || c.Run.Steps != 3 || len(c.Env.Vault.Houses) != 2 || c.Loss.KL != 1 ||
		c.Run.Name != "7" || c.Run.Dir != "a b" {
		t.Errorf("got %+v", c)
	}
	for _, bad := range []string{"run.steps", "run.stepz=3", "=3", "run.steps=x y"} {
		if _, err := load("", nil, []string{bad}); err == nil || !strings.Contains(err.Error(), "--set") {
			t.Errorf("--set %s: got %v", bad, err)
		}
	}
}

// A configuration with changed memory keys can be compared with GRPO, which has
// no memory.
func TestWith(t *testing.T) {
	c, err := load(Demo, nil, []string{"memory.k=10"})
	if err != nil {
		t.Fatal(err)
	}
	grpo, err := With(c, []string{"algorithm.name=grpo"})
	if err != nil || grpo.Algorithm.Name != "grpo" || c.Algorithm.Name != "empo2" {
		t.Errorf("got %q, %v", grpo.Algorithm.Name, err)
	}
	if _, err := With(c, []string{"algorithm.name=grpo", "memory.k=5"}); err == nil {
		t.Error("a variant's own key without effect is accepted")
	}
}

func TestDifferences(t *testing.T) {
	a, b := Default(), Default()
	b.Memory.K = 3
	if got := Differences(a, b); len(got) != 1 || got[0] != "memory.k: 10 → 3" {
		t.Errorf("got %q", got)
	}
}

// defaults.toml has every key of Config and no other, with its meaning.
func TestEveryKeyHasADefaultAndAMeaning(t *testing.T) {
	var c Config
	meta, err := toml.Decode(defaultsText, &c)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown %v", err, meta.Undecoded())
	}
	obvious := []string{"run.dir", "optimizer.beta1", "optimizer.beta2", "optimizer.eps", "reflection.temperature"}
	for name, k := range keys() {
		if !meta.IsDefined(strings.Split(name, ".")...) {
			t.Errorf("%s is not in defaults.toml", name)
		}
		if len(k.doc) == 0 && !slices.Contains(obvious, name) {
			t.Errorf("%s has no comment", name)
		}
	}
	for line := range strings.Lines(defaultsText) {
		if utf8.RuneCountInString(line) > 120 {
			t.Errorf("a long line: %s", line)
		}
	}
}

func TestSamplerKeys(t *testing.T) {
	f := func(sets []string, want ...string) {
		t.Helper()
		_, err := load("", nil, sets)
		if len(want) == 0 {
			if err != nil {
				t.Errorf("%v: %v", sets, err)
			}
			return
		}
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%v: %v, want %q", sets, err, text)
			}
		}
	}
	f([]string{"sampler.backend=vllm"})
	f([]string{"sampler.backend=vllm", "trainer.rank=512"})
	f([]string{"sampler.backend=vllm", "trainer.rank=513"}, "trainer.rank", "up to rank 512, this one has 513")
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["http://127.0.0.1:8000"]`})
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["127.0.0.1:8000"]`}, "sampler.vllm.urls", "http://")
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["http://a:1"]`, "sampler.vllm.replicas=2"},
		"sampler.vllm.replicas", "no effect")
	f([]string{"sampler.backend=vllm", "sampler.vllm.replicas=2", `sampler.vllm.devices=["0", "2,3"]`})
	f([]string{"sampler.backend=vllm", `sampler.vllm.devices=["0", "1"]`}, "sampler.vllm.devices",
		"2 entries, and servers to start: 1", "an entry for each server")
	f([]string{"sampler.backend=vllm", `sampler.vllm.devices=["0; 1"]`}, "sampler.vllm.devices", "names no GPUs")
	f([]string{"sampler.backend=vllm", `sampler.vllm.devices=["0"]`, `sampler.vllm.env=["CUDA_VISIBLE_DEVICES=1"]`},
		"sampler.vllm.env", "which sampler.vllm.devices sets")
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["http://a:1"]`, `sampler.vllm.devices=["0"]`},
		"sampler.vllm.devices", "no effect")
	f([]string{"sampler.backend=llamacpp", "sampler.llamacpp.replicas=2", `sampler.llamacpp.devices=["0", "1"]`})
	f([]string{"sampler.backend=llamacpp", "sampler.llamacpp.replicas=3", `sampler.llamacpp.devices=["0", "1"]`},
		"sampler.llamacpp.devices", "2 entries, and servers to start: 3")
	f([]string{"sampler.backend=sglang", `sampler.sglang.launch=["sgl", "{port}"]`, `sampler.sglang.devices=["0", "1"]`},
		"sampler.sglang.devices", "2 entries, and servers to start: 1")
	f([]string{"sampler.vllm.sleep=true"}, "no effect", `sampler.backend is "llamacpp"`)
	f([]string{"sampler.backend=ollama"}, "sampler.served_model_name", "by which the server knows")
	f([]string{"sampler.backend=ollama", "sampler.served_model_name=qwen2.5:0.5b"})
	openai := []string{"sampler.backend=openai", "sampler.served_model_name=m", "sampler.openai.url=https://host/v1"}
	f(openai, "takes no adapters", "adapt")
	f(append(openai, "algorithm.name=adapt"))
	f(append(openai, "algorithm.name=adapt", "rollout.top_p=0.9", "rollout.top_k=40"))
	f([]string{"sampler.backend=openai", "sampler.served_model_name=m", "algorithm.name=adapt"}, "sampler.openai.url",
		"not the address")
	f(append(openai, "algorithm.name=adapt", "sampler.openai.url=https://host/v1?key=abcdef"), "sampler.openai.url",
		`"https://host/v1" has a query`)
	f([]string{"memory.embedder=ollama", "memory.model=m", "memory.url=http://host/#x"}, "memory.url", "a fragment")
	f([]string{"sampler.backend=sgl"}, "one of llamacpp, vllm, sglang, ollama, openai")
	f([]string{"model.path=m.gguf", "algorithm.name=adapt", "sampler.backend=llamacpp"})
	f([]string{"model.path=embedded", "sampler.llamacpp.gguf=m.gguf"}, "sampler.llamacpp.gguf", "another model")
	f([]string{"sampler.served_model_name=m"}, "sampler.served_model_name", "no effect")
	f([]string{"sampler.backend=sglang", `sampler.sglang.urls=["http://a:1"]`, "sampler.max_model_len=9999"},
		"does not start the server")
	f([]string{"sampler.max_model_len=8"}, "sampler.max_model_len", "8 leaves no room for a prompt", "rollout.max_tokens")
	f([]string{"sampler.max_model_len=41", "rollout.max_tokens=40"})
}

// Template arguments are a table or JSON. They are equal after writing and
// reading.
func TestTemplateArguments(t *testing.T) {
	want := TemplateArgs{"enable_thinking": false, "style": "short"}
	for _, set := range []string{
		`sampler.template_args={enable_thinking = false, style = "short"}`,
		`sampler.template_args={"enable_thinking": false, "style": "short"}`,
	} {
		c, err := load("", nil, []string{set})
		if err != nil || cmp.Diff(want, c.Sampler.TemplateArgs) != "" {
			t.Errorf("%s: %v, %v", set, c.Sampler.TemplateArgs, err)
		}
		if again := clone(c); cmp.Diff(c, again) != "" {
			t.Errorf("%s: not equal after writing and reading:\n%s", set, cmp.Diff(c, again))
		}
	}
	c, err := load("", []string{writeFile(t, "c.toml", "[sampler.template_args]\nenable_thinking = true\n")}, nil)
	if err != nil || c.Sampler.TemplateArgs["enable_thinking"] != true {
		t.Errorf("as a table: %v, %v", c.Sampler.TemplateArgs, err)
	}
}
