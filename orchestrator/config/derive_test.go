package config

import (
	"strings"
	"testing"
)

// Users need not set values that follow from other keys.
func TestDerivedValues(t *testing.T) {
	f := func(gpu bool, sets, key, want string) {
		t.Helper()
		c, err := Source{Sets: strings.Fields(sets), Machine: Machine{GPU: gpu}}.Load()
		if err != nil {
			t.Errorf("%s: %v", sets, err)
			return
		}
		if got := Values(c)[key]; got != want {
			t.Errorf("GPU %v, %s: %s = %s, want %s", gpu, sets, key, got, want)
		}
	}
	f(false, "", "sampler.backend", `"llamacpp"`)
	f(true, "", "sampler.backend", `"vllm"`)
	f(true, "sampler.backend=llamacpp", "sampler.backend", `"llamacpp"`)
	f(false, "", "trainer.dtype", `"float32"`)
	f(true, "", "trainer.dtype", `"bfloat16"`)
	f(true, "trainer.device=cpu", "trainer.dtype", `"float32"`)
	f(false, "env.name=scienceworld", "run.name", `"scienceworld"`)
	f(false, "", "rollout.concurrency", "8")
	f(true, "", "rollout.concurrency", "64")
	f(true, "sampler.vllm.replicas=2", "rollout.concurrency", "128")
	f(true, "sampler.vllm.replicas=2", "sampler.concurrency", "64")
	f(true, "sampler.vllm.replicas=2 rollout.concurrency=31", "sampler.concurrency", "16")
	f(false, "env.name=scienceworld rollout.concurrency=5", "env.scienceworld.concurrency", "5")
	f(false, "", "sampler.canary_tolerance", "0.001")
	f(false, "sampler.llamacpp.gguf=m.gguf", "sampler.canary_tolerance", "0.3")
	f(false, "sampler.llamacpp.exact_logprobs=false", "sampler.canary_tolerance", "0.1")
	f(true, "", "sampler.canary_tolerance", "0.1")
	f(true, "trainer.dtype=float32 sampler.vllm.exact_logprobs=true", "sampler.canary_tolerance", "0.001")
	f(false, "sampler.backend=ollama sampler.served_model_name=m", "sampler.canary_tolerance", "0.05")
	f(false, "rollout.max_turns=5 rollout.max_tokens=20", "loss.average_length", "100")
}

// llama.cpp computes GELU in half precision.
func TestToleranceOfArchitectures(t *testing.T) {
	f := func(architecture, sets string, want float64) {
		t.Helper()
		machine := Machine{Architecture: func(folder string) string {
			if folder != "/m" {
				t.Errorf("the architecture of %q is asked for", folder)
			}
			return architecture
		}}
		c, err := Source{Sets: strings.Fields("model.path=/m " + sets), Machine: machine}.Load()
		if err != nil || c.Sampler.CanaryTolerance != want {
			t.Errorf("%s, %s: %g, want %g (%v)", architecture, sets, c.Sampler.CanaryTolerance, want, err)
		}
	}
	f("qwen2", "", 0.001)
	f("", "", 0.001)
	f("gemma2", "", 0.02)
	f("gemma3_text", "", 0.02)
	f("gemma3", "sampler.llamacpp.gguf=m.gguf", 0.3)
	f("gemma3", "sampler.backend=vllm trainer.dtype=float32 sampler.vllm.exact_logprobs=true", 0.001)
	f("gemma3", "sampler.canary_tolerance=0.002", 0.002)
}

// A server's context is what an episode needs, within the model's limit.
func TestContextTokens(t *testing.T) {
	c, err := load("", nil, []string{"rollout.max_turns=10", "rollout.max_tokens=100", "reflection.max_tokens=100"})
	if err != nil {
		t.Fatal(err)
	}
	// 1024 + 10 × (100 + 256) + 100 = 4684
	if n := c.EpisodeTokens(); n != 5120 {
		t.Errorf("an episode of %d tokens", n)
	}
	for limit, want := range map[int]int{0: 5120, 32768: 5120, 5120: 5120, 2048: 2048} {
		if n := c.ContextTokens(limit); n != want {
			t.Errorf("limit %d: %d tokens, want %d", limit, n, want)
		}
	}
	c.Sampler.MaxModelLen = 4096
	if n := c.ContextTokens(2048); n != 4096 {
		t.Errorf("the user's own value is changed to %d", n)
	}
}

// A configuration that was written with its derived values can be read again,
// even if some of them have no effect.
func TestDerivedValuesMayHaveNoEffect(t *testing.T) {
	for _, sets := range []string{"algorithm.name=grpo", "algorithm.name=adapt",
		"sampler.backend=sglang sampler.sglang.launch=[\"x\",\"{port}\"]"} {
		c, err := load("", nil, strings.Fields(sets))
		if err != nil {
			t.Errorf("%s: %v", sets, err)
			continue
		}
		var b strings.Builder
		if err := Write(&b, c); err != nil {
			t.Fatal(err)
		}
		if _, err := load("", []string{writeFile(t, "c.toml", b.String())}, nil); err != nil {
			t.Errorf("%s: %v", sets, err)
		}
	}
}

func TestRequireModel(t *testing.T) {
	f := func(ok bool, sets ...string) {
		t.Helper()
		c, err := load("", nil, sets)
		if err != nil {
			t.Fatal(err)
		}
		err = RequireModel(c)
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "--profile demo") ||
			!strings.Contains(err.Error(), "empo2 init --model")) {
			t.Errorf("%v: %v", sets, err)
		}
	}
	f(false)
	f(false, "algorithm.name=adapt")
	f(true, "model.path=/m")
	f(true, "profile=demo")
	f(true, "algorithm.name=adapt", "sampler.backend=ollama", "sampler.served_model_name=m")
	f(true, "algorithm.name=adapt", "sampler.backend=vllm", `sampler.vllm.urls=["http://a:1"]`)
}

// Users must set only the model's path, with and without a GPU.
func TestModelPathIsEnough(t *testing.T) {
	for _, gpu := range []bool{false, true} {
		c, err := Source{Sets: []string{"model.path=/models/m"}, Machine: Machine{GPU: gpu}}.Load()
		if err != nil {
			t.Errorf("GPU %v: %v", gpu, err)
			continue
		}
		if err := RequireModel(c); err != nil {
			t.Errorf("GPU %v: %v", gpu, err)
		}
	}
}

// What empo2 config prints is valid in a file, also with another
// algorithm.
func TestPrintedConfigurationIsValid(t *testing.T) {
	for _, profile := range append(Profiles(), "") {
		c, err := load(profile, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := Write(&b, c); err != nil {
			t.Fatal(err)
		}
		file := writeFile(t, "all.toml", b.String())
		for _, set := range []string{"run.steps=9", "algorithm.name=grpo", "algorithm.name=adapt"} {
			if _, err := load("", []string{file}, []string{set}); err != nil {
				t.Errorf("profile %q, %s: %v", profile, set, err)
			}
		}
	}
}
