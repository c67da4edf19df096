package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every recipe is valid with every server file, and has the paper's values.
func TestRecipesLoad(t *testing.T) {
	folder := filepath.Join("..", "..", "scripts", "recipes")
	files, err := filepath.Glob(filepath.Join(folder, "*.toml"))
	if err != nil {
		t.Fatal(err)
	}
	var recipes, servers []string
	for _, f := range files {
		switch name := filepath.Base(f); {
		case strings.HasPrefix(name, "gpus-"), strings.HasPrefix(name, "machines-"): // see placements
		case strings.HasPrefix(name, "on-"):
			servers = append(servers, f)
		case name == "vault-smollm2.toml": // its own, not the paper's, and only for llamacpp
			c, err := load("", []string{f}, nil)
			if err != nil || c.Env.Name != "vault" || c.Env.Vault.Doors != 4 || c.Sampler.Backend != "llamacpp" {
				t.Errorf("%s: environment %s, backend %s, %v", f, c.Env.Name, c.Sampler.Backend, err)
			}
		case strings.HasPrefix(name, "sweep-"):
			checkSweep(t, f)
		default:
			recipes = append(recipes, f)
		}
	}
	if len(recipes) != 4 || len(servers) != 2 {
		t.Fatalf("recipes %q, servers %q", recipes, servers)
	}
	for _, server := range servers {
		backend := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(server), "on-"), ".toml")
		t.Run(backend, func(t *testing.T) {
			for _, recipe := range recipes {
				c, err := load("", []string{recipe, server}, nil)
				if err != nil {
					t.Errorf("%s: %v", recipe, err)
					continue
				}
				checkPaper(t, recipe, c)
				if c.Sampler.Backend != backend {
					t.Errorf("%s: backend %s", recipe, c.Sampler.Backend)
				}
			}
		})
	}
}

// checkSweep loads every setting of a sweep file.
func checkSweep(t *testing.T, path string) {
	t.Helper()
	s, err := ReadSweep(path)
	if err != nil || len(s.Arms) < 2 || len(s.Seeds)+len(s.Houses) < 2 {
		t.Fatalf("%s: %d settings, %v", path, len(s.Arms), err)
	}
	for _, a := range s.Arms {
		if _, err := load(s.Profile, s.Files, slices.Concat(s.Sets, a.Sets)); err != nil {
			t.Errorf("%s: %s: %v", path, a.Name, err)
		}
	}
}

// checkPaper compares a recipe with the reference's hyper-parameters.
func checkPaper(t *testing.T, recipe string, c Config) {
	t.Helper()
	a, l, m := c.Algorithm, c.Loss, c.Memory
	if a.Groups != 16 || a.GroupSize != 8 || a.ModeDraw != "step" || a.MemoryProbability != 0.25 ||
		a.OffPolicyProbability != 2.0/3 || a.Baseline != "group" {
		t.Errorf("%s: algorithm %+v", recipe, a)
	}
	if l.ClipLow != 0.2 || l.ClipHigh != 0.3 || l.DualClip != 10 || l.LogprobFloor != -5 || l.KL != 0 ||
		l.KLSampled != 0 || l.MiniBatch != 16 {
		t.Errorf("%s: loss %+v", recipe, l)
	}
	if m.K != 10 || m.Threshold != 0.5 || m.Capacity != 1000 || c.Reflection.By != "policy" ||
		c.Reflection.MaxTokens != 512 {
		t.Errorf("%s: memory %+v, reflection %+v", recipe, m, c.Reflection)
	}
	if c.Rollout.MaxTokens != 32 || c.Rollout.MaxTurns > 100 || c.Eval.Temperature != 0.4 || c.Eval.Every != 20 ||
		c.Prompt.Template != "recipe" {
		t.Errorf("%s: rollout %+v, eval %+v, prompt %q", recipe, c.Rollout, c.Eval, c.Prompt.Template)
	}
}

// A later file overrides single keys of an earlier one.
func TestLaterFilesOverrideEarlierOnes(t *testing.T) {
	a, b := writeFile(t, "a.toml", "[run]\nsteps = 3\nseed = 5\n"), writeFile(t, "b.toml", "[run]\nsteps = 4\n")
	c, err := load("", []string{a, b}, []string{"run.max_seconds=2.0"})
	if err != nil || c.Run.Steps != 4 || c.Run.Seed != 5 || c.Run.MaxSeconds != 2 {
		t.Errorf("%+v, %v", c.Run, err)
	}
	if _, err := load("", []string{a, writeFile(t, "c.toml", "[run]\nstep = 4\n")}, nil); err == nil ||
		!strings.Contains(err.Error(), "c.toml:2") {
		t.Errorf("a mistake in the second file: %v", err)
	}
}
