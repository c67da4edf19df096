package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

// One training step with the real trainer, server and environment. The embedded
// policy was not trained for these environments. Its returns therefore differ
// only by the novelty bonus, and the observations soon fill its context of 2048
// tokens.
func TestRealStepOnWebShop(t *testing.T) {
	shop, err := filepath.Abs("../../../envs/webshop/testdata/shop")
	if err != nil {
		t.Fatal(err)
	}
	m := realStep(t, "webshop", "env.webshop.data="+shop, "env.webshop.own_data=true",
		"env.webshop.items=items.json", "env.webshop.attributes=items_ins_v2.json", "env.webshop.nouns=nouns.json")
	if m.Stops[rollout.StopContextFull]+m.Stops[rollout.StopTruncated] != m.Free.N+m.Tips.N {
		t.Errorf("episodes ended by %v", m.Stops)
	}
}

func TestRealStepOnScienceWorld(t *testing.T) {
	if _, err := exec.LookPath("java"); err != nil {
		t.Skip("NOT RUN: there is no java")
	}
	cache, err := pyenv.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	jar := filepath.Join(cache, "scienceworld", "scienceworld.jar")
	if _, err := os.Stat(jar); err != nil {
		t.Skip("NOT RUN: no simulator; scripts/setup scienceworld installs it")
	}
	m := realStep(t, "scienceworld", "env.scienceworld.jar="+jar, `env.scienceworld.tasks=["find-living-thing"]`,
		"env.scienceworld.train_variations=2", "env.scienceworld.eval_variations=1", "env.scienceworld.concurrency=2",
		"env.scienceworld.actions=closest-recipe", "prompt.template=recipe")
	if m.Stops[rollout.StopContextFull] == 0 {
		t.Errorf("episodes ended by %v", m.Stops)
	}
}

// The environment is the Python program scripts/example_env.py.
func TestRealStepOnTheExampleEnvironment(t *testing.T) {
	python := os.Getenv("EMPO2_PYTHON")
	if python == "" {
		t.Skip("NOT RUN: EMPO2_PYTHON names no Python; scripts/test sets it")
	}
	example, err := filepath.Abs("../../../scripts/example_env.py")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := exec.CommandContext(ctx, python, example, "0")
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = server.Wait() // killed
	}()
	address := bufio.NewScanner(out)
	if !address.Scan() {
		t.Fatal("the server prints no address")
	}
	m := realStep(t, "remote", "env.remote.url="+address.Text(), "env.remote.train_tasks=4")
	if m.Stops[rollout.StopTruncated]+m.Stops[rollout.StopTerminated] != m.Free.N+m.Tips.N {
		t.Errorf("episodes ended by %v", m.Stops)
	}
}

// realStep trains one step with the embedded policy, evaluates, and returns the
// step's metrics. The baseline is the mean of the group, as in the paper, so the
// novelty bonus of the episodes with tips gives a gradient.
func realStep(t *testing.T, env string, sets ...string) orchestrator.StepMetrics {
	t.Helper()
	realScratch(t)
	args := []string{"run", "--profile", "demo", "--json"}
	for _, set := range append([]string{"env.name=" + env, "run.name=" + env, "run.steps=1", "algorithm.groups=2",
		"algorithm.group_size=4", "algorithm.baseline=group", "eval.every=0", "eval.final_episodes=2"}, sets...) {
		args = append(args, "--set", set)
	}
	ctx := t.Context()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, "empo2", args...)
	cmd.Stderr = &stderr
	if out, err := cmd.Output(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, stderr.String())
	}
	summary, err := readSummary(context.Background(), filepath.Join("runs", env))
	if err != nil {
		t.Fatal(err)
	}
	if len(summary.History) != 1 || len(summary.Evaluations) == 0 {
		t.Fatalf("%d steps, %d evaluations", len(summary.History), len(summary.Evaluations))
	}
	m := summary.History[0]
	if m.Failed != 0 || m.Rows == 0 || m.Trained == 0 || m.Version != 1 || m.GradNorm <= 0 {
		t.Errorf("no training step: %+v", m)
	}
	if m.NewTips != 8 {
		t.Errorf("%d tips of 8 episodes\n%s", m.NewTips, stderr.String())
	}
	if m.Canary > 1e-3 {
		t.Errorf("the canary differs by %g", m.Canary)
	}
	return m
}
