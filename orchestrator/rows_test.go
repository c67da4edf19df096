package orchestrator

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/empo2/empo2/orchestrator/advantage"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// trainedRow is a row with n trained tokens after one prompt token.
func trainedRow(n int) rollout.Row {
	r := rollout.Row{Tokens: make([]int32, n+1), LossMask: make([]bool, n+1), Logprobs: make([]float32, n+1)}
	for i := range n {
		r.LossMask[i+1] = true
	}
	return r
}

// Two episodes of 2 and 4 tokens with advantages 1 and −1, in the three averages.
func TestAverages(t *testing.T) {
	batch := []trainedEpisode{
		{advantage: 1, rows: []rollout.Row{trainedRow(2)}, tokens: 2},
		{advantage: -1, rows: []rollout.Row{trainedRow(4)}, tokens: 4},
	}
	f := func(average string, first, second float32) {
		t.Helper()
		c := demo()
		c.Loss.Average, c.Loss.AverageLength = average, 10
		rows, _ := rows(batch, c.Loss, nil)
		if rows[0].Advantages[1] != first || rows[1].Advantages[1] != second || rows[1].Advantages[4] != second {
			t.Errorf("%s: %v and %v", average, rows[0].Advantages, rows[1].Advantages)
		}
	}
	f("episode", 1.0/4, -1.0/8)    // 1/(2 tokens · 2 episodes), 1/(4 · 2)
	f("token", 1.0/6, -1.0/6)      // 6 tokens in all
	f("constant", 1.0/20, -1.0/20) // 1/(10 · 2): the same for short and long replies
}

// The floor of log-probs is for rows that are trained in another context than the one that
// was sampled: on-policy rows keep their rare tokens.
func TestTheFloorIsForOffPolicyRows(t *testing.T) {
	stage := estimateStage{config: demo(), enabled: true}
	for mode, exempt := range map[Mode]bool{OnPolicy: true, OnPolicyTips: true, OffPolicy: false} {
		trajectory := rollout.Trajectory{RowsWithTips: []rollout.Row{trainedRow(2)},
			RowsWithoutTips: []rollout.Row{trainedRow(3)}}
		e := stage.episode(trajectory, advantage.Episode{Tips: mode.Tips(), OffPolicy: mode == OffPolicy})
		e.advantage = 1
		sent, _ := rows([]trainedEpisode{e}, stage.config.Loss, nil)
		if sent[0].FloorExempt != exempt {
			t.Errorf("%s: exempt from the floor: %v", mode, sent[0].FloorExempt)
		}
	}
}

// An episode without an advantage is sent only for its KL or entropy bonus, and
// counts in the averages in any case.
func TestRowsWithoutGradientAreNotSent(t *testing.T) {
	batch := []trainedEpisode{
		{advantage: 1, rows: []rollout.Row{trainedRow(2)}, tokens: 2},
		{advantage: 0, rows: []rollout.Row{trainedRow(2)}, tokens: 2},
	}
	l := config.Loss{Average: "episode"}
	if sent, _ := rows(batch, l, nil); len(sent) != 1 || sent[0].Advantages[1] != 1.0/4 {
		t.Errorf("%d rows, the first with %v", len(sent), sent[0].Advantages)
	}
	for _, l := range []config.Loss{{KL: 0.1}, {KLSampled: 0.1}, {Entropy: 0.1}} {
		batch[1].sampledContext = true
		if sent, _ := rows(batch, l, nil); len(sent) != 2 {
			t.Errorf("%+v: %d rows", l, len(sent))
		}
	}
}

// The entropy bonus is averaged as the policy gradient is, over trained tokens
// only; without one no row carries it.
func TestEntropyBonus(t *testing.T) {
	c := demo()
	c.Loss.Entropy, c.Loss.Average = 0.1, "token"
	batch := []trainedEpisode{{advantage: 1, rows: []rollout.Row{trainedRow(2)}, tokens: 2}}
	first := func() trainerbridge.Row {
		rows, _ := rows(batch, c.Loss, nil)
		return rows[0]
	}
	if diff := cmp.Diff([]float32{0, 0.05, 0.05}, first().Entropy); diff != "" {
		t.Error(diff)
	}
	c.Loss.Entropy = 0
	if e := first().Entropy; e != nil {
		t.Errorf("without a bonus: %v", e)
	}
}

// Dr.GRPO's advantage of an episode is its return less the mean, with neither
// its length nor the group's standard deviation in it.
func TestDrGRPO(t *testing.T) {
	advantages, ok := advantage.Estimate([]advantage.Episode{{Env: 10}, {Env: 0}, {Env: 0}, {Env: 0}},
		advantage.Group, false)
	if want := []float64{7.5, -2.5, -2.5, -2.5}; !ok || cmp.Diff(want, advantages) != "" {
		t.Fatalf("advantages %v", advantages)
	}
	l := config.Loss{Average: "constant", AverageLength: 100}
	for _, trained := range []int{1, 50, 100} {
		if got := (batchSizes{episodes: 4, tokens: 151}).tokenScale(l, trainedEpisode{tokens: trained}); got != 1.0/400 {
			t.Errorf("%d tokens: scale %g", trained, got)
		}
	}
}

// The loss of a batch of four episodes with ρ = 1 is -Σ weight · tokens · advantage. The
// numbers were computed by hand.
func TestAveragesByHand(t *testing.T) {
	var batch []trainedEpisode
	for i, tokens := range []int{2, 4, 6, 8} {
		advantage := []float64{0.625, -0.375, -0.375, 0.125}[i] // Dr.GRPO's for returns of 1, 0, 0, 0.5
		batch = append(batch, trainedEpisode{group: i / 2, tokens: tokens, advantage: advantage})
	}
	f := func(average string, loss float64, weights ...float64) {
		t.Helper()
		sum, l := 0.0, config.Loss{Average: average, AverageLength: 10}
		for i, e := range batch {
			w := sizesOf(batch).tokenScale(l, e)
			if math.Abs(w-weights[i]) > 6e-5 {
				t.Errorf("%s: a token of episode %d has the weight %g, want %g", average, i, w, weights[i])
			}
			sum -= w * float64(e.tokens) * e.advantage
		}
		if math.Abs(sum-loss) > 6e-5 {
			t.Errorf("%s: loss %g, want %g", average, sum, loss)
		}
	}
	f("episode", 0, 0.125, 0.0625, 0.0417, 0.0313)
	f("token", 0.075, 0.05, 0.05, 0.05, 0.05)
	f("constant", 0.0375, 0.025, 0.025, 0.025, 0.025)
	f("prompt", 0.0655, 1.0/12, 1.0/12, 1.0/28, 1.0/28) // groups of 6 and 14 tokens
	for i := range batch {
		batch[i].group = 0
	}
	f("prompt", 0.075, 0.05, 0.05, 0.05, 0.05) // one group: the mean over all tokens
}

// Replies that were cut off carry no loss, in every rendering; tokens without a
// log-prob shift nothing.
func TestMaskTruncated(t *testing.T) {
	nan := float32(math.NaN())
	turns := []rollout.Turn{
		{IDs: []int32{1, 2}, Logprobs: []float32{-1, nan}, Finish: sampler.FinishLength},
		{IDs: []int32{3, 4}, Logprobs: []float32{-3, -4}, Finish: sampler.FinishStop},
		{IDs: []int32{5}, Logprobs: []float32{-5}, Finish: sampler.FinishLength},
	}
	rows := []rollout.Row{
		{Tokens: []int32{9, 1, 2, 9, 3, 4}, LossMask: []bool{false, true, false, false, true, true},
			Logprobs: []float32{0, -1, 0, 0, -3, -4}},
		{Tokens: []int32{9, 5}, LossMask: []bool{false, true}, Logprobs: []float32{0, -5}},
	}
	got := maskTruncated(rows, turns)
	want := []rollout.Row{
		{Tokens: rows[0].Tokens, LossMask: []bool{false, false, false, false, true, true}, Logprobs: []float32{0, 0,
			0, 0, -3, -4}},
		{Tokens: rows[1].Tokens, LossMask: []bool{false, false}, Logprobs: []float32{0, 0}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !rows[0].LossMask[1] || rows[0].Logprobs[1] != -1 {
		t.Error("the trajectory's own rows were changed")
	}
	without := []rollout.Row{{Tokens: []int32{1, 2, 3, 4, 5}, LossMask: []bool{true, true, true, true, true},
		Logprobs: make([]float32, 5), WithoutLogprobs: true}}
	if diff := cmp.Diff([]bool{false, false, true, true, false}, maskTruncated(without,
		turns)[0].LossMask); diff != "" {
		t.Errorf("without log-probs: %s", diff)
	}
	c := demo()
	c.Rollout.MaskTruncated = true
	trajectory := rollout.Trajectory{Turns: turns, RowsWithTips: rows, RowsWithoutTips: rows}
	stage := estimateStage{config: c, enabled: true}
	e := stage.episode(trajectory, advantage.Episode{Tips: true, OffPolicy: true})
	e.advantage = 1
	if e.tokens != 2 || countTrained(e.sampled[0]) != 2 || countTrained(e.klRows[0]) != 2 {
		t.Errorf("%d tokens trained: %+v", e.tokens, e)
	}
}
