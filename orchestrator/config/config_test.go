package config

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite config.toml from the defaults")

func TestShippedFileEqualsDefaults(t *testing.T) {
	const path = "../../config.toml"
	var b strings.Builder
	if err := Write(&b, Default()); err != nil {
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
		t.Errorf("config.toml is not what the defaults say (go test ./orchestrator/config -update):\n%s", diff)
	}
	c, err := Load(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Errorf("config.toml does not load as the defaults:\n%s", diff)
	}
}

func TestBadFiles(t *testing.T) {
	f := func(text, wantPlace, wantMsg string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path, nil)
		if err == nil {
			t.Errorf("%q: accepted", text)
			return
		}
		if msg := err.Error(); !strings.Contains(msg, wantPlace) || !strings.Contains(msg, wantMsg) || !strings.Contains(msg, "hint: ") {
			t.Errorf("%q:\n%s\nwants %q, %q and a hint", text, msg, wantPlace, wantMsg)
		}
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
	f("[loss]\nkl = 0.0\nkl_sampled = 0.0\nkl_estimator = \"k3\"\n", "loss.kl_estimator", "has no effect")
	f("[memory]\nurl = \"http://127.0.0.1:1\"\n", "memory.url", "has no effect")
	f("[memory]\nembedder = \"ollama\"\n", "memory.url", "is empty")
	f("[env.vault]\nlevers = 13\n", "env.vault.levers", "out of range")
	f("[env.webshop]\nmode = \"text_rich\"\n", "env.webshop.mode", "has no effect")
	f("[env]\nname = \"webshop\"\n", "env.webshop.data", "is empty")
	f("[env]\nname = \"remote\"\n", "env.remote.url", "is empty")
	f("[env]\nname = \"agentgym\"\n", "env.agentgym.url", "is empty")
	f("[env]\nname = \"agentgym\"\n[env.agentgym]\nurl = \"http://h\"\n", "env.agentgym.dialect", "is empty")
	f("[env]\nname = \"openenv\"\n", "env.openenv.url", "is empty")
	f("[env.openenv]\nsessions = 2\n", "env.openenv.sessions", "has no effect")
	f("[env]\nname = \"ors\"\n", "env.ors.url", "is empty")
	f("[env]\nname = \"ors\"\n[env.ors]\nurl = \"http://h\"\ninput = \"{}\"\n", "env.ors.input", "no effect without env.ors.tool")
	f("[prompt]\ntemplate = \"\"\n", "prompt.template", "is empty")
	f("[env]\nname = \"scienceworld\"\n[env.scienceworld]\nreads = \"some\"\n", "env.scienceworld.reads", "unknown value")
	f("[rollout]\ntemperature = 0.7\n", "rollout.temperature", "temperature 1")
	f("[sampler]\nmodel = \"/models/x.gguf\"\n", "sampler.model", "different models")
	f("[run]\nname = \"a/b\"\n", "run.name", "not a folder name")
}

func TestMissingFileSaysHowToMakeOne(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), nil)
	if err == nil || !strings.Contains(err.Error(), "empo2 config >") {
		t.Errorf("got %v", err)
	}
}

func TestSet(t *testing.T) {
	c, err := Load("", []string{"algorithm.name=grpo", "env.vault.houses=[7, 8]", "run.steps = 3", "loss.kl=1", "run.name=7", `run.dir="a b"`})
	if err != nil {
		t.Fatal(err)
	}
	if c.Algorithm.Name != "grpo" || c.Run.Steps != 3 || len(c.Env.Vault.Houses) != 2 || c.Loss.KL != 1 || c.Run.Name != "7" || c.Run.Dir != "a b" {
		t.Errorf("got %+v", c)
	}
	for _, bad := range []string{"run.steps", "run.stepz=3", "=3", "run.steps=x y"} {
		if _, err := Load("", []string{bad}); err == nil || !strings.Contains(err.Error(), "--set") {
			t.Errorf("--set %s: got %v", bad, err)
		}
	}
}

// A configuration whose memory is changed can be compared with GRPO.
func TestWith(t *testing.T) {
	c := Default()
	c.Memory.K = 10
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
	b.Memory.K = 10
	if got := Differences(a, b); len(got) != 1 || got[0] != "memory.k: 3 → 10" {
		t.Errorf("got %q", got)
	}
}

func TestEveryDefaultHasADocOrAnObviousName(t *testing.T) {
	obvious := "run.dir optimizer. reflection.temperature reflection.max_tokens eval.temperature sampler.llamacpp.threads trainer.rank trainer.alpha"
	for name, k := range keys() {
		table := name[:strings.LastIndex(name, ".")+1]
		if k.doc == "" && !strings.Contains(obvious, name) && !strings.Contains(obvious, table) {
			t.Errorf("%s has no doc tag", name)
		}
	}
}

func TestSamplerKeys(t *testing.T) {
	f := func(sets []string, want ...string) {
		t.Helper()
		_, err := Load("", sets)
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
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["http://127.0.0.1:8000"]`})
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["127.0.0.1:8000"]`}, "sampler.vllm.urls", "http://")
	f([]string{"sampler.backend=vllm", `sampler.vllm.urls=["http://a:1"]`, "sampler.vllm.replicas=2"}, "sampler.vllm.replicas", "no effect")
	f([]string{"sampler.vllm.sleep=true"}, "no effect", `sampler.backend is "llamacpp"`)
	f([]string{"sampler.backend=ollama"}, "sampler.model", "by which the server knows it")
	f([]string{"sampler.backend=ollama", "sampler.model=qwen2.5:0.5b"})
	f([]string{"sampler.backend=openai", "sampler.model=m", "sampler.openai.url=https://host/v1"}, "takes no adapters", "adapt")
	f([]string{"sampler.backend=openai", "sampler.model=m", "sampler.openai.url=https://host/v1", "algorithm.name=adapt"})
	f([]string{"sampler.backend=openai", "sampler.model=m", "algorithm.name=adapt"}, "sampler.openai.url", "not the address")
	f([]string{"sampler.backend=sgl"}, "one of llamacpp, vllm, sglang, ollama, openai")
}
