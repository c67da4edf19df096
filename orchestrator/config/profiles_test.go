package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

// Every profile is valid, alone and with a model.
func TestProfiles(t *testing.T) {
	if want := []string{"cpu", "demo", "gpu-24gb", "gpu-80gb"}; !slices.Equal(Profiles(), want) {
		t.Fatalf("profiles %q", Profiles())
	}
	for _, name := range Profiles() {
		c, err := load(name, nil, nil)
		if err != nil || c.Profile != name {
			t.Errorf("%s: profile %q, %v", name, c.Profile, err)
		}
		if c, err = load(name, nil, []string{"model.path=/m"}); err != nil || c.Model.Path != "/m" {
			t.Errorf("%s with a model: %q, %v", name, c.Model.Path, err)
		}
	}
	_, err := load("gpu", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "--profile gpu") || !strings.Contains(err.Error(),
		"cpu, demo, gpu-24gb, gpu-80gb") {
		t.Errorf("an unknown profile: %v", err)
	}
}

// The flag overrides the files. A later file overrides an earlier one. All of
// them override values of the profile.
func TestPrecedenceOfProfiles(t *testing.T) {
	cpu := writeFile(t, "a.toml", "profile = \"cpu\"\n[optimizer]\nlearning_rate = 0.5\n")
	demo := writeFile(t, "b.toml", "profile = \"demo\"\n")
	f := func(want, flag string, files, sets []string) {
		t.Helper()
		c, err := load(flag, files, sets)
		if err != nil || c.Profile != want || c.Optimizer.LearningRate != 0.5 {
			t.Errorf("%q, want %q: learning rate %g, %v", c.Profile, want, c.Optimizer.LearningRate, err)
		}
	}
	f("cpu", "", []string{cpu}, nil)
	f("demo", "", []string{cpu, demo}, nil)
	f("cpu", "", []string{demo, cpu}, nil)
	f("gpu-80gb", "gpu-80gb", []string{cpu, demo}, nil)
	f("gpu-24gb", "", []string{cpu}, []string{"profile=gpu-24gb"})
}

// The demonstration has the values that it was measured with. Some keys have
// new names.
func TestDemonstrationIsUnchanged(t *testing.T) {
	var old map[string]any
	if _, err := toml.DecodeFile("testdata/config-c4ce585.toml", &old); err != nil {
		t.Fatal(err)
	}
	c, err := load(Demo, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Renamed keys that the demonstration uses.
	now := map[string]string{
		"rollout.max_steps": "rollout.max_turns", "rollout.episodes_in_flight": "rollout.concurrency",
		"trainer.model": "model.path", "sampler.canary": "sampler.canary_tolerance",
		"sampler.llamacpp.slots": "sampler.concurrency", "sampler.llamacpp.context": "sampler.max_model_len",
		"sampler.llamacpp.timeout_seconds": "sampler.timeout_seconds", "run.minutes": "run.max_seconds",
	}
	values := Values(c)
	var differ []string
	eachKey("", old, func(key string, value any) {
		for _, other := range []string{"env.scienceworld.", "env.webshop.", "env.openenv.", "sampler.vllm.",
			"sampler.sglang.", "sampler.ollama.", "sampler.openai."} {
			if strings.HasPrefix(key, other) {
				return
			}
		}
		name := key
		if now[key] != "" {
			name = now[key]
		}
		if got, known := values[name]; known && got != formatAny(value) {
			differ = append(differ, key+": "+formatAny(value)+" → "+got)
		} else if _, isOld := renamed[key]; !known && !isOld {
			differ = append(differ, key)
		}
	})
	if diff := cmp.Diff([]string(nil), differ); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(c.Sampler.AdapterFormats(), []string{"peft", "gguf"}) {
		t.Errorf("adapters in %v", c.Sampler.AdapterFormats())
	}
}

// eachKey calls f for every leaf of a decoded file.
func eachKey(prefix string, table map[string]any, f func(key string, value any)) {
	for key, value := range table {
		if sub, ok := value.(map[string]any); ok {
			eachKey(prefix+key+".", sub, f)
		} else {
			f(prefix+key, value)
		}
	}
}
