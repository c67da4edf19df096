package config

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const goodSweep = `
profile = "demo"
base = ["mine.toml", "/abs.toml"]
seeds = [3, 1]
jobs = 2
metric = "score"
[set]
run.steps = 16
"env.scienceworld.tasks" = ["boil", "melt"]
sampler.template_args = {enable_thinking = false}
[arms.plain]
[arms.grpo]
algorithm.name = "grpo"
[grid]
optimizer.learning_rate = [1e-3, 0.003]
loss.average = ["token", "episode"]
`

func TestReadSweep(t *testing.T) {
	path := writeFile(t, "kl.toml", goodSweep)
	s, err := ReadSweep(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Profile != "demo" || s.Out != filepath.Join("runs", "kl") || s.Jobs != 2 || s.Metric != "score" ||
		s.Houses != nil ||
		!slices.Equal(s.Seeds, []int64{3, 1}) ||
		!slices.Equal(s.Files, []string{filepath.Join(filepath.Dir(path), "mine.toml"), "/abs.toml"}) {
		t.Errorf("%+v", s)
	}
	want := []string{"run.steps=16", `env.scienceworld.tasks=["boil", "melt"]`,
		`sampler.template_args={"enable_thinking" = false}`}
	if d := cmp.Diff(want, s.Sets); d != "" {
		t.Error(d)
	}
	if len(s.Arms) != 8 {
		t.Fatalf("%+v", s.Arms)
	}
	first, last := s.Arms[0], s.Arms[7]
	if first.Name != "plain_learning_rate-0.001_average-token" ||
		first.Title != "plain learning_rate=0.001 average=token" {
		t.Errorf("%+v", first)
	}
	wantLast := []string{`algorithm.name="grpo"`, "optimizer.learning_rate=0.003", `loss.average="episode"`}
	if d := cmp.Diff(wantLast, last.Sets); d != "" {
		t.Error(d)
	}
	var c Config // every set can be applied
	for _, a := range s.Arms {
		c = Default()
		for _, set := range slices.Concat(s.Sets, a.Sets) {
			if err := applySet(set, &c, map[string]string{}); err != nil {
				t.Error(err)
			}
		}
	}
	if c.Optimizer.LearningRate != 0.003 || c.Algorithm.Name != "grpo" || c.Env.ScienceWorld.Tasks[1] != "melt" {
		t.Errorf("%+v", c.Optimizer)
	}
}

// Values that make no names get numbers, and no setting at all is one setting.
func TestNamesOfSweepArms(t *testing.T) {
	f := func(grid string, names ...string) {
		t.Helper()
		s, err := parseSweep("seeds = [1]\n"+grid, "x.toml")
		var got []string
		for _, a := range s.Arms {
			got = append(got, a.Name)
		}
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("%s: %q, %v", grid, got, err)
		}
	}
	f("", "base")
	f("[grid]\nloss.kl = [0.0, 0.5]", "kl-0.0", "kl-0.5")
	f("[grid]\n\"loss.kl\" = [0.0]\ndivergence.kl = [1.0]", "loss.kl-0.0_divergence.kl-1.0")
	f("[grid]\nprompt.template = [\"a/x\", \"a:x\"]", "cell-001", "cell-002")
	f("[grid]\ntrainer.target_modules = [[\"q_proj\"], [\"all-linear\"]]", `target_modules---q_proj--`,
		"target_modules---all-linear--")
	f("[grid]\nprompt.template = [\""+strings.Repeat("x", 130)+"\", \"y\"]", "cell-001", "cell-002")
}

func TestMistakesInASweepFile(t *testing.T) {
	f := func(text, place, want string) {
		t.Helper()
		_, err := parseSweep(text, "x.toml")
		var fault *Error
		if !errors.As(err, &fault) || fault.Place != place || !strings.Contains(err.Error(), want) || fault.Hint == "" {
			t.Errorf("%s:\n%v\nwant %s: … %s", text, err, place, want)
		}
	}
	const seeds = "seeds = [1]\n"
	f("", "x.toml: seeds", "missing or empty")
	f("seeds = []", "x.toml:1: seeds", "missing or empty")
	f("seeds = [1, 1]", "x.toml:1: seeds", "listed twice")
	f("houses = [-1]", "x.toml:1: houses", "negative")
	f("seeds = [1]\nhouses = [1]", "x.toml:2: houses", "exclude each other")
	f(seeds+"jobs = 0", "x.toml:2: jobs", "0 is out of range")
	f(seeds+`metric = "reward"`, "x.toml:2: metric", "success or score")
	f(seeds+"seed = 3", "x.toml:2", `unknown key "seed"`)
	f(seeds+"[sets]\na = 3", "x.toml:2", `unknown key`)
	f(seeds+"[set]\nrun.stepz = 3", "x.toml:3: run.stepz", "run.steps")
	f(seeds+"[set]\nrun.seed = 3", "x.toml:3: run.seed", "use seeds")
	f("houses = [1]\n[set]\nenv.vault.houses = [3]", "x.toml:3: env.vault.houses", "use houses")
	f(seeds+"[set]\nprofile = \"demo\"", "x.toml:3: profile", "at the top")
	f(seeds+"[set]\n[set.run]\nsteps = \"many\"", "x.toml:4: run.steps", "a whole number")
	f(seeds+"[grid]\nloss.kl = 0.1", "x.toml:3: loss.kl", "belongs to [set]")
	f(seeds+"[grid]\nloss.kl = []", "x.toml:3: loss.kl", "is not a list of values")
	f(seeds+"[grid]\nloss.kl = [0.1, 0.1]", "x.toml:3: loss.kl", "lists 0.1 twice")
	f(seeds+"[grid]\nloss.kl = [0.1, \"x\"]", "x.toml:3: loss.kl", "a number")
	f(seeds+"[arms.\"a/b\"]", "x.toml:2", "is not a name")
	f(seeds+"[arms.a]\n[arms.A]", "x.toml:3", "two arms are called A")
	f(seeds+"[arms.a]\nmemory.kk = 3", "x.toml:3: memory.kk", "memory.k")
	f(seeds+"[arms]\na = 3", "x.toml:3", "")
	f("seeds = [1", "x.toml:1", "")
}

// An error about a set names the place in the file, and other errors stay.
func TestExplainNamesTheFile(t *testing.T) {
	s, err := parseSweep("seeds = [1]\n[set]\nmemory.k = 0\n", "x.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Source{Profile: Demo, Sets: s.Sets}.Load()
	if got := s.Explain(err); got == nil || !strings.HasPrefix(got.Error(), "x.toml:3: memory.k: 0 is out of range") {
		t.Errorf("%v", got)
	}
	other := errors.New("other")
	if got := s.Explain(other); !errors.Is(got, other) {
		t.Errorf("%v", got)
	}
}
