package main

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
)

// Two runs of a repeatable configuration, with torch and llama-server, have equal
// token ids, log-probs, tips and adapters, bit by bit. The second run is
// interrupted by the limit of its steps and continued.
func TestRealRunsAreRepeatable(t *testing.T) {
	realScratch(t)
	run := func(name string, steps int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "empo2", "run", "--profile", "demo", "--set", "run.name="+name,
			"--set", "run.repeatable=true", "--set", fmt.Sprintf("run.steps=%d", steps), "--set", "algorithm.groups=2",
			"--set", "algorithm.group_size=6", "--set", "env.vault.doors=2", "--set", "env.vault.levers=3",
			"--set", "env.vault.score=partial", "--set", "eval.every=0", "--set", "eval.final_episodes=4")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run("one", 2)
	run("two", 1)
	run("two", 2)
	one, two := contents(t, "one"), contents(t, "two")
	if len(one) != 2*2*6+2 {
		t.Errorf("%d episodes and adapters", len(one))
	}
	if diff := cmp.Diff(one, two); diff != "" {
		t.Error(diff)
	}
}

// contents returns what was sampled in the training episodes of a run, and the
// checksums of its adapters.
func contents(t *testing.T, name string) map[string]string {
	t.Helper()
	out := map[string]string{}
	l, err := ledger.OpenReader(t.Context(), filepath.Join("runs", name))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for step := int64(1); step <= 2; step++ {
		stored, err := l.Episodes(t.Context(), step)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range stored {
			e, err := orchestrator.EpisodeOf(s)
			if err != nil {
				t.Fatal(err)
			}
			sampled := fmt.Sprint(e.RowsWithTips, e.RowsWithoutTips, e.TipIDs, e.TipLogprobs, e.Tip, e.EnvReturn)
			out[fmt.Sprintf("episode %d/%d/%d", e.Step, e.Group, e.Episode)] = fmt.Sprintf("%x", sha256.Sum256([]byte(sampled)))
		}
	}
	for version := 1; version <= 2; version++ {
		adapter := fmt.Sprintf("v%06d", version)
		m, err := manifest.Verify(filepath.Join("runs", name, "adapters", adapter), manifest.Adapter)
		if err != nil {
			t.Fatal(err)
		}
		out["adapter "+adapter] = fmt.Sprint(m.Files)
	}
	return out
}
