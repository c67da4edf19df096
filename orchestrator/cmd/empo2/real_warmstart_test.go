package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/manifest"
	"github.com/empo2/empo2/orchestrator/warmstart"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// strangeAnswers are demonstrations of answers that the embedded policy never
// gives, so that its loss begins high.
func strangeAnswers(t *testing.T, path string, n int) {
	t.Helper()
	levers, doors := []string{"jade", "amber", "bone", "salt"}, []string{"iron", "oak", "clay"}
	var all []demos.Demonstration
	for i := range n {
		lever, door := levers[i%len(levers)], doors[i%len(doors)]
		all = append(all, demos.Demonstration{Messages: []demos.Message{
			{Role: "user", Content: fmt.Sprintf("Levers: %s, wax, moss. Door 1 of 2 is %s.", lever, door)},
			{Role: "assistant", Content: fmt.Sprintf("%s at %s at %s", door, lever, lever)},
		}})
	}
	if err := demos.Write(path, all); err != nil {
		t.Fatal(err)
	}
}

// A warm start with torch lowers the held-out loss. One that is killed continues,
// and ends with exactly the same model.
func TestRealWarmStartSurvivesAKill(t *testing.T) {
	realScratch(t)
	strangeAnswers(t, "data.jsonl", 60)
	args := []string{"warmstart", "--profile", "demo", "--data", "data.jsonl", "--json", "--steps", "16",
		"--learning-rate", "0.01", "--save-seconds", "0", "--out"}
	killWarmStart(t, append(args, "killed"), 7)
	first, second := warmStartSteps(t, append(args, "killed")), warmStartSteps(t, append(args, "whole"))
	if len(second) != 17 || len(first) == 0 || first[0].Step < 7 || len(first) > 10 {
		t.Errorf("%d steps after the kill, %d without it", len(first), len(second))
	}
	before, after := second[0].HeldOut, second[16].HeldOut
	if !(before > 2) || !(after < 0.3*before) {
		t.Errorf("held-out loss from %v to %v", before, after)
	}
	a, err := manifest.Sum(filepath.Join("killed", "model.safetensors"))
	b, err2 := manifest.Sum(filepath.Join("whole", "model.safetensors"))
	if a != b || err != nil || err2 != nil {
		t.Errorf("the models differ (%v, %v)", err, err2)
	}
	checkServed(t, after)
}

// checkServed checks that a new trainer on the merged model has the loss of the
// trained adapter.
func checkServed(t *testing.T, heldOut float64) {
	t.Helper()
	again := warmStartSteps(t, []string{"warmstart", "--profile", "demo", "--set", "model.path=whole", "--data",
		"data.jsonl", "--json", "--steps", "1", "--out", "second"})
	if got := again[0].HeldOut; got < heldOut-1e-3 || got > heldOut+1e-3 {
		t.Errorf("the merged model has the held-out loss %v, the adapter had %v", got, heldOut)
	}
}

func warmStartSteps(t *testing.T, args []string) (steps []warmstart.Step) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "empo2", args...).Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	for line := range strings.Lines(string(out)) {
		var event struct {
			Event string
			Data  warmstart.Step
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		if event.Event == "step" {
			steps = append(steps, event.Data)
		}
	}
	return steps
}

// killWarmStart kills the command after it has printed a step.
func killWarmStart(t *testing.T, args []string, step int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "empo2", args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), fmt.Sprintf(`"step":%d,`, step)) {
			kill(t, cmd.Process.Pid)
		}
	}
	_ = cmd.Wait() // killed
}

// A warm start trains on the same token ids and the same loss mask as a run with
// llama-server does: an episode of a run, as a demonstration, is its training row.
func TestRealDemonstrationsHaveTheTokensOfTheRun(t *testing.T) {
	realScratch(t)
	ctx := t.Context()
	sets := []string{"run.steps=1", "eval.every=0", "eval.final_episodes=4"}
	c, err := config.Source{Profile: "demo", Sets: sets}.Load()
	if err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(ctx, "empo2", "run", "--profile", "demo", "--set", "run.steps=1", "--set",
		"eval.every=0", "--set", "eval.final_episodes=4")
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	log := zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	tools, err := setUp(ctx, c, newConsole(os.Stderr, os.Stderr), log)
	if err != nil {
		t.Fatal(err)
	}
	trainer := newTrainer(c, tools, t.TempDir(), log)
	defer trainer.Close()
	if err := trainer.Restore(ctx, 0); err != nil {
		t.Fatal(err)
	}
	compareRows(t, c, trainer, storedTrajectories(t))
}

func storedTrajectories(t *testing.T) (all []rollout.Trajectory) {
	t.Helper()
	l, err := ledger.Open(t.Context(), filepath.Join("runs", "vault"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stored, err := l.Episodes(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stored {
		trajectory, err := orchestrator.EpisodeOf(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, trajectory)
	}
	return all
}

// compareRows compares the episodes whose replies have the usual tokens: a policy
// may also spell a word with other tokens.
func compareRows(t *testing.T, c config.Config, trainer *trainerbridge.Local, episodes []rollout.Trajectory) {
	t.Helper()
	codec := trainerCodec{trainer.Codec()}
	defer codec.Close()
	template, err := served{tokenizer: codec, control: codec, renderer: codec}.newTemplate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, episode := range episodes {
		d := demos.Demonstration{}
		usual := true
		for _, turn := range episode.Turns {
			for _, m := range turn.Prompt {
				d.Messages = append(d.Messages, demos.Message{Role: m.Role, Content: m.Text()})
			}
			d.Messages = append(d.Messages, demos.Message{Role: "assistant", Content: turn.Action})
			ids, err := template.Reply(context.Background(), turn.Action)
			usual = usual && err == nil && slices.Equal(ids, turn.IDs)
		}
		if !usual {
			continue
		}
		compared++
		example, err := warmstart.Tokenizer{Template: template}.Example(t.Context(), d)
		want := episode.RowsWithTips
		if err != nil || len(want) != 1 || len(example.Rows) != 1 ||
			!slices.Equal(example.Rows[0].Tokens, want[0].Tokens) ||
			!slices.Equal(example.Rows[0].LossMask, want[0].LossMask) {
			t.Fatalf("the row of the run is %v,\nthe demonstration's %v (%v)", want, example.Rows, err)
		}
	}
	if compared < len(episodes)/2 {
		t.Errorf("only %d of %d episodes have the usual tokens", compared, len(episodes))
	}
}
