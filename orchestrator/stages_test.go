package orchestrator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/prompt"
	"github.com/empo2/empo2/sampler/rollout"
	"github.com/empo2/empo2/sampler/samplertest"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

func newLedger(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A plan is drawn once. Later attempts at the step get the same plan.
func TestThePlanStageDrawsAPlanOnce(t *testing.T) {
	led := newLedger(t)
	tasks := []envs.Task{{ID: "a"}, {ID: "b"}}
	stage := planStage{config: small(), tasks: tasks, ledger: led, prompts: promptReader{ledger: led}}
	before := state{step: 4, policy: sampler.Policy{Version: 3}, prompt: promptState{template: prompt.Default()}}
	first, err := stage.run(context.Background(), before)
	if err != nil {
		t.Fatal(err)
	}
	if first.Step != 5 || first.Version != 3 || first.Prompt != prompt.Default().SHA256() || first.Episodes() == 0 {
		t.Errorf("plan %+v", first.Plan)
	}
	stage.config.Run.Seed++ // a plan drawn now would be another one
	second, err := stage.run(context.Background(), before)
	if diff := cmp.Diff(first.Plan, second.Plan); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// played is a finished episode with the given return whose rows have two
// trained tokens; the row with tips has one token more.
func played(ret float64) rollout.Trajectory {
	row := func(n int) rollout.Row {
		r := rollout.Row{Tokens: make([]int32, n), LossMask: make([]bool, n), Logprobs: make([]float32, n)}
		r.LossMask[n-1], r.LossMask[n-2] = true, true
		return r
	}
	return rollout.Trajectory{
		Stop: rollout.StopTerminated, EnvReturn: ret,
		RowsWithTips: []rollout.Row{row(6)}, RowsWithoutTips: []rollout.Row{row(5)},
	}
}

func TestTheEstimateStage(t *testing.T) {
	c := small(func(c *config.Config) {
		c.Algorithm.Baseline, c.Algorithm.NormalizeStd, c.Loss.KLSampled, c.Novelty.Weight = "group", false, 0.1, 0
	})
	failed := played(9)
	failed.Stop = rollout.StopFailed
	in := Sampled{
		Plan: Plan{Step: 7, Groups: []GroupPlan{
			{Episodes: []EpisodePlan{{Mode: OnPolicy}, {Mode: OnPolicyTips}, {Mode: OffPolicy}, {Mode: OnPolicy}}},
			{Episodes: []EpisodePlan{{Mode: OnPolicy}, {Mode: OnPolicy}}},
		}},
		Groups: [][]rollout.Trajectory{{played(1), played(2), played(6), failed}, {played(1), played(1)}},
	}
	got := estimateStage{config: c, enabled: true, memory: true}.run(in)
	if got.Step != 7 || got.Groups != 2 || got.NoGradient != 1 || len(got.Episodes) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []struct {
		advantage      float64
		tokens, klRows int
		sampledContext bool
	}{
		{advantage: -2, tokens: 5, sampledContext: true},
		{advantage: -1, tokens: 6, sampledContext: true},
		{advantage: 3, tokens: 5, klRows: 1}, // off-policy: its tips are gone
	} {
		e := got.Episodes[i]
		if math.Abs(e.advantage-want.advantage) > 1e-9 || len(e.rows[0].Tokens) != want.tokens || e.tokens != 2 ||
			len(e.klRows) != want.klRows || e.sampledContext != want.sampledContext || len(e.sampled[0].Tokens) != 6 {
			t.Errorf("episode %d: %+v, want %+v", i, e, want)
		}
	}
	c.Algorithm.Estimator = "rloo"
	rloo := estimateStage{config: c, enabled: true, memory: true}.run(in)
	if a := rloo.Episodes[2].advantage; math.Abs(a-4.5) > 1e-9 || rloo.NoGradient != 1 {
		t.Errorf("rloo: advantage %g, want 6 - (1+2)/2, and one group without a gradient: %+v", a, rloo)
	}
	c.Loss.FlatGroups = true // the group of equal returns is kept for its KL
	if flat := (estimateStage{config: c, enabled: true, memory: true}).run(in); len(flat.Episodes) != 5 ||
		flat.NoGradient != 1 || flat.Episodes[4].advantage != 0 {
		t.Errorf("with flat groups: %+v", flat)
	}
	if off := (estimateStage{config: c}).run(in); off.Groups != 0 || len(off.Episodes) != 0 {
		t.Errorf("nothing is trained, but the batch is %+v", off)
	}
}

// With GiGPO a turn is also compared with the turns that began in the same state. Tips are
// no part of the state.
func TestGiGPOGivesTurnsTheirOwnAdvantage(t *testing.T) {
	c := small(func(c *config.Config) {
		c.Algorithm.Estimator, c.Algorithm.Baseline, c.Algorithm.NormalizeStd, c.Novelty.Weight = "gigpo", "group", false, 0
		c.Loss.KLSampled = 0
		c.Algorithm.StepDiscount, c.Algorithm.StepWeight = 0.5, 1
	})
	episode := func(states string, last float64, cut int) rollout.Trajectory {
		out := rollout.Trajectory{Stop: rollout.StopTerminated, EnvReturn: last}
		row := rollout.Row{Tokens: []int32{1}, LossMask: []bool{false}, Logprobs: []float32{0}}
		for i, s := range states {
			turn := rollout.Turn{Observation: envs.Observation{State: string(s)}, IDs: []int32{5, 6},
				Logprobs: sampler.Logprobs{-1, -1}, Tips: []prompt.Tip{{Text: fmt.Sprint("tip ", last)}}}
			if i == len(states)-1 {
				turn.Reward = last
			}
			if i == cut {
				turn.Finish = sampler.FinishLength
			}
			out.Turns = append(out.Turns, turn)
			row.Tokens = append(row.Tokens, 5, 6, 1)
			row.LossMask, row.Logprobs = append(row.LossMask, true, true, false), append(row.Logprobs, -1, -1, 0)
		}
		out.RowsWithTips, out.RowsWithoutTips = []rollout.Row{row}, []rollout.Row{row}
		return out
	}
	f := func(group []rollout.Trajectory, want ...[]float32) {
		t.Helper()
		plan := GroupPlan{Episodes: make([]EpisodePlan, len(group))}
		for i := range plan.Episodes {
			plan.Episodes[i].Mode = []Mode{OnPolicyTips, OffPolicy}[i%2]
		}
		b := estimateStage{config: c, enabled: true, memory: true}.run(
			Sampled{Plan: Plan{Groups: []GroupPlan{plan}}, Groups: [][]rollout.Trajectory{group}})
		sent, _ := rows(b.Episodes, config.Loss{Average: "constant", AverageLength: 1}, nil)
		var got [][]float32
		for _, r := range sent {
			for i := range r.Advantages {
				r.Advantages[i] *= float32(len(b.Episodes))
			}
			got = append(got, r.Advantages)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	// Returns 1 and 0, so ±0.5. At A the discounted returns are 0.5 and 0, at B 1 and 0.
	f([]rollout.Trajectory{episode("AB", 1, -1), episode("AB", 0, -1)},
		[]float32{0, 0.75, 0.75, 0, 1, 1, 0}, []float32{0, -0.75, -0.75, 0, -1, -1, 0})
	// Equal returns after 1 and 2 turns: the shorter way from A is better.
	f([]rollout.Trajectory{episode("A", 1, -1), episode("AB", 1, -1)},
		[]float32{0, 0.25, 0.25, 0}, []float32{0, -0.25, -0.25, 0, 0, 0, 0})
	c.Rollout.MaskTruncated = true // a reply that was cut off is not trained
	f([]rollout.Trajectory{episode("AB", 1, 0), episode("AB", 0, -1)},
		[]float32{0, 0, 0, 0, 1, 1, 0}, []float32{0, -0.75, -0.75, 0, -1, -1, 0})
}

// A trainer that dies is restored to the committed version, and files of the
// interrupted attempt are removed before the next one.
func TestTheTrainStageStartsAgainFromTheCommittedVersion(t *testing.T) {
	w := newWorld(t, small())
	led := newLedger(t)
	w.trainer.root, w.trainer.policy.Script = led.Dir, samplertest.Say("a")
	exports := 0
	w.trainer.fail = func(call string) error {
		if strings.HasPrefix(call, "export") {
			if exports++; exports == 1 {
				return trainerbridge.ErrUnavailable
			}
			leftovers, err := filepath.Glob(filepath.Join(led.Dir, "checkpoints", "*"))
			if err != nil || len(leftovers) != 1 {
				t.Errorf("checkpoints at the second export: %v, %v", leftovers, err)
			}
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Join(led.Dir, "checkpoints", "000004"), 0o755); err != nil {
		t.Fatal(err)
	}
	for step := range int64(4) {
		s := ledger.Step{Step: step + 1, Metrics: []byte("{}")}
		if err := led.Commit(context.Background(), s, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	row := rollout.Row{
		Tokens: []int32{1, 2}, LossMask: []bool{false, true}, Logprobs: []float32{0, -1}, WithoutLogprobs: true,
	}
	e := trainedEpisode{advantage: 1, rows: []rollout.Row{row}, sampled: []rollout.Row{row}, tokens: 1}
	loop := &Loop{Config: w.config, Trainer: w.trainer, Ledger: led}
	stage := trainStage{config: w.config, trainer: w.trainer, ledger: led, recovery: newRecovery(loop)}
	update, left, err := stage.run(context.Background(), Batch{Step: 5, Episodes: []trainedEpisode{e}}, state{})
	if err != nil {
		t.Fatal(err)
	}
	if update.Version != 5 || update.Restarts != 1 || update.Rows != w.config.Loss.Epochs || !update.Corrected ||
		len(left) > 0 {
		t.Errorf("%+v", update)
	}
	at := slices.Index(w.trainer.calls, "restore 0")
	if at < 0 || !slices.Contains(w.trainer.calls[at:], "forward_backward") {
		t.Errorf("calls %v", w.trainer.calls)
	}
	if none, _, err := stage.run(context.Background(), Batch{Step: 6}, state{}); none != nil || err != nil {
		t.Errorf("an empty batch: %+v, %v", none, err)
	}
}

// A refused version leaves the policy before it served.
func TestThePublishStage(t *testing.T) {
	w := newWorld(t, small())
	ctx := context.Background()
	base, err := w.backend.Publish(ctx, sampler.Adapter{})
	if err != nil {
		t.Fatal(err)
	}
	recovery := newRecovery(&Loop{Config: w.config, Trainer: w.trainer, Ledger: newLedger(t)})
	stage := publishStage{backend: w.backend, trainer: w.trainer, recovery: recovery,
		canary: func() float64 { return 0.25 }}
	if got, err := stage.run(ctx, nil, base); err != nil || got.Policy != base || got.Version != nil {
		t.Errorf("without an update: %+v, %v", got, err)
	}
	sums := map[string]string{"adapter_model.safetensors": "sum"}
	update := func(version int) *Update {
		return &Update{Version: version, Export: trainerbridge.Exported{Dir: "dir", Files: sums}}
	}
	one, err := stage.run(ctx, update(1), base)
	want := ledger.Version{Version: 1, Step: 1, Dir: "dir", Files: sums, Canary: 0.25}
	if err != nil || !cmp.Equal(*one.Version, want) {
		t.Errorf("%+v, %v", one, err)
	}
	two, err := stage.run(ctx, update(2), one.Policy)
	if served := w.backend.Served(); err != nil || two.Policy.Version != 2 || !slices.Equal(served, []int{0, 2}) {
		t.Errorf("serves %v, %v", served, err)
	}
	refusal := errors.New("refused")
	w.backend.BeforePublish = func(context.Context, sampler.Adapter) error { return refusal }
	_, err = stage.run(ctx, update(3), two.Policy)
	if served := w.backend.Served(); !errors.Is(err, refusal) || !slices.Equal(served, []int{0, 2}) {
		t.Errorf("serves %v, %v", served, err)
	}
}

// A lasting mismatch is logged once and recorded at every step. The server's
// advice is part of it.
func TestMismatchesAreReported(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	r := mismatchReporter{tolerance: 0.001, ledger: led, log: zerolog.New(&log), can: sampler.Capabilities{
		Hints: map[string]string{sampler.HintLowPrecision: "compute with float32"},
	}}
	reported := false
	f := func(u *Update, want bool, lines, events int) {
		t.Helper()
		var err error
		if reported, err = r.report(context.Background(), u, reported); err != nil || reported != want {
			t.Errorf("reported %t, %v", reported, err)
		}
		var n int
		err = led.DB().QueryRow("SELECT count(*) FROM events WHERE kind = 'mismatch'").Scan(&n)
		if err != nil || n != events {
			t.Errorf("%d events, want %d, %v", n, events, err)
		}
		if got := strings.Count(log.String(), "\n"); got != lines {
			t.Errorf("%d lines, want %d:\n%s", got, lines, log.String())
		}
	}
	off, good := &Update{Version: 1, Mismatch: Mismatch{Mean: 0.01, Max: 0.1}}, &Update{Version: 2}
	f(good, false, 0, 0)
	f(off, true, 1, 1)
	f(off, true, 1, 2)
	f(nil, true, 1, 2) // nothing was trained: nothing is known
	f(good, false, 1, 2)
	f(off, true, 2, 3)
	if !strings.Contains(log.String(), "hint: compute with float32") {
		t.Errorf("no advice in %s", log.String())
	}
}

func TestContextBudget(t *testing.T) {
	f := func(length, answer, want int) {
		t.Helper()
		if got := (contextBudget{length: length}).maxPrompt(answer); got != want {
			t.Errorf("context %d, answer %d: %d, want %d", length, answer, got, want)
		}
	}
	f(0, 10, 0)
	f(100, 10, 90)
	f(100, 200, 1)
}

// A removed checkpoint is reported once, with what it costs.
func TestARemovedCheckpointIsReported(t *testing.T) {
	led := newLedger(t)
	var log bytes.Buffer
	stage := commitStage{ledger: led, keep: 1, log: zerolog.New(&log)}
	before := state{policy: sampler.Policy{Version: 3}}
	checkpoint := filepath.Join(led.Dir, "checkpoints", "000003")
	if err := os.MkdirAll(checkpoint, 0o755); err != nil {
		t.Fatal(err)
	}
	for step, want := range []int{0, 0, 1, 1} {
		if step == 2 {
			if err := os.RemoveAll(checkpoint); err != nil {
				t.Fatal(err)
			}
		}
		done, err := stage.run(t.Context(), finishedStep{before: before, published: Published{Policy: before.policy},
			planned: Planned{Plan: Plan{Step: int64(step) + 1}}})
		if err != nil {
			t.Fatal(err)
		}
		before = done.state
		text, err := led.LastEvent(t.Context(), eventLost)
		warned := strings.Count(log.String(), "removed the checkpoint of version 3")
		if err != nil || (text != "") != (want > 0) || warned != want {
			t.Errorf("step %d: event %q, %v; log %s", step+1, text, err, &log)
		}
		if want > 0 && !strings.Contains(text, "a restart fails until the next version is committed") {
			t.Errorf("event %q", text)
		}
	}
}
