package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// With the real llama-server, try sends what the run has sent, request for request on the
// wire, and gets the ids that the run got: of the base model and of a trained version,
// without and with tips. It starts no trainer.
func TestRealTryRepeatsARun(t *testing.T) {
	script, err := filepath.Abs("../../../sampler/llamacpp/testdata/llama-server.py")
	if err != nil {
		t.Fatal(err)
	}
	realScratch(t)
	recorder, err := exec.LookPath("recordingserver")
	if err != nil {
		t.Fatal(err)
	}
	wire, err := filepath.Abs("wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) []byte {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "empo2", args...).Output()
		if err != nil {
			t.Fatalf("empo2 %q: %v\n%s", args, err, out)
		}
		return out
	}
	command("run", "--profile", "demo", "--set", "run.repeatable=true", "--set", "run.steps=2",
		"--set", "sampler.llamacpp.binary="+recorder, "--set", fmt.Sprintf("sampler.llamacpp.env=[%q, %q, %q]",
			recordFile+"="+wire, recordProgram+"="+os.Getenv("EMPO2_PYTHON"), recordScript+"="+script),
		"--set", "algorithm.groups=2", "--set", "algorithm.group_size=6", "--set", "env.vault.doors=2",
		"--set", "env.vault.levers=3", "--set", "env.vault.score=partial", "--set", "eval.every=0",
		"--set", "env.vault.train_variations=2", "--set", "eval.final_episodes=1")
	l, err := ledger.OpenReader(t.Context(), filepath.Join("runs", "vault"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sent, end := readRecorded(t, wire, 0)
	tips := 0
	for step, place := range map[int64]string{1: "1/0/5", 2: "2/0/0"} {
		want := storedEpisode(t, l, step, place)
		out := command("try", "vault", "--like", place, "-k", "1", "--turns", "0", "--json")
		got := eventsOf[triedReply](t, string(out), "reply")[0]
		if len(got.Turns) != len(want.Turns) || got.Return != want.EnvReturn {
			t.Fatalf("%s: %d turns, return %g, want %d, %g", place, len(got.Turns), got.Return, len(want.Turns), want.EnvReturn)
		}
		var again map[string]map[string]any
		again, end = readRecorded(t, wire, end)
		var ids []int32
		for i, turn := range got.Turns {
			seed := sampler.Seed(want.Seed, uint64(i))
			onWire := strconv.Itoa(int(uint32(seed) ^ uint32(seed>>32))) // the server has 32 bits
			if sent[onWire] == nil || again[onWire] == nil {
				t.Fatalf("%s, turn %d: not on the wire", place, i)
			}
			sameRequest(t, place, sent[onWire], again[onWire])
			tips += len(want.Turns[i].Tips)
			if diff := cmp.Diff(want.Turns[i].IDs, turn.IDs); diff != "" {
				t.Errorf("%s, turn %d: other ids were sampled: %s", place, i, diff)
			}
			ids = append(append([]int32{}, turn.PromptIDs...), turn.IDs...)
		}
		if diff := cmp.Diff(want.RowsWithTips[0].Tokens, ids); diff != "" || len(want.RowsWithTips) != 1 {
			t.Errorf("%s: other ids were sent: %s", place, diff)
		}
	}
	if tips == 0 {
		t.Error("no episode had tips")
	}
	t.Run("ab", func(t *testing.T) { realComparisons(t, command) })
}

// realComparisons compares versions, prompts and the memory on the real server, and shows
// both conversations of each pair.
func realComparisons(t *testing.T, command func(args ...string) []byte) {
	for _, args := range [][]string{
		{"vault@0", "vault@2", "-k", "2"},
		{"plain", "plain,rollout.max_tokens=3", "--run", "vault", "-k", "1"},
		{"tips=none", "tips=auto", "--run", "vault", "-k", "8", "--until", "decided", "--split", "train"},
	} {
		lines := string(command(append([]string{"ab", "--tasks", "2", "--json"}, args...)...))
		pairs, result := eventsOf[matchResult](t, lines, "pair"), eventsOf[comparison](t, lines, "result")
		if len(pairs) == 0 || len(result) != 1 || result[0].Failed > 0 || result[0].Difference.N != len(pairs) {
			t.Fatalf("%q: %d pairs, %+v", args, len(pairs), result)
		}
		for _, side := range []matchedSide{pairs[0].A, pairs[0].B} {
			shown := command(append(strings.Fields(strings.TrimPrefix(side.Show, "empo2 ")), "--json")...)
			episode := eventsOf[struct{ Return float64 }](t, string(shown), "episode")
			if len(episode) != 1 || episode[0].Return != side.Return {
				t.Errorf("%s: %+v, want return %g", side.Show, episode, side.Return)
			}
		}
	}
}

// storedEpisode reads an episode of a run.
func storedEpisode(t *testing.T, l *ledger.Ledger, step int64, place string) rollout.Trajectory {
	t.Helper()
	stored, err := l.Episodes(t.Context(), step)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stored {
		e, err := orchestrator.EpisodeOf(s)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprintf("%d/%d/%d", e.Step, e.Group, e.Episode) == place {
			return e
		}
	}
	t.Fatalf("no episode %s", place)
	return rollout.Trajectory{}
}
