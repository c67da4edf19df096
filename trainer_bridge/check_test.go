package trainerbridge

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRowCheck(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	f := func(name string, change func(r *Row), want string) {
		t.Helper()
		r := newRow(1, 2, 3)
		change(&r)
		err := r.Check()
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	f("good", func(*Row) {}, "")
	f("kl at a token that is not trained", func(r *Row) {
		r.LossMask[1], r.Logprobs[1], r.Advantages[1], r.KL = false, 0, 0, []float32{0, 0.5, 0.5}
	}, "")
	f("importance weights", func(r *Row) { r.ImportanceWeights = []float32{1, 0.5, 0} }, "")
	f("no loss mask", func(r *Row) { r.LossMask = nil }, "")
	f("no loss mask, no advantage", func(r *Row) { r.LossMask, r.Advantages[1] = nil, 0 }, "")
	f("one token", func(r *Row) { *r = newRow(1) }, "1 tokens")
	f("no token", func(r *Row) { *r = Row{} }, "0 tokens")
	f("negative token", func(r *Row) { r.Tokens[2] = -1 }, "token 2 is negative")
	f("short mask", func(r *Row) { r.LossMask = r.LossMask[:2] }, "loss mask of 2 values for 3 tokens")
	f("long importance weights", func(r *Row) { r.ImportanceWeights = make([]float32, 4) },
		"4 importance weights for 3 tokens")
	f("short entropy", func(r *Row) { r.Entropy = []float32{0} }, "1 entropy for 3 tokens")
	f("no log-probs", func(r *Row) { r.Logprobs = nil }, "0 logprobs for 3 tokens")
	f("long advantages", func(r *Row) { r.Advantages = append(r.Advantages, 0) }, "4 advantages for 3 tokens")
	f("empty kl", func(r *Row) { r.KL = []float32{} }, "0 kl for 3 tokens")
	f("NaN log-prob", func(r *Row) { r.Logprobs[1] = nan }, "logprobs of token 1 is NaN")
	f("infinite log-prob", func(r *Row) { r.Logprobs[2] = inf }, "logprobs of token 2 is -Inf")
	f("NaN kl", func(r *Row) { r.KL = []float32{0, nan, 0} }, "kl of token 1 is NaN")
	f("trained first token", func(r *Row) { r.LossMask[0] = true }, "the first token")
	f("advantage of the first token", func(r *Row) { r.LossMask, r.Advantages[0] = nil, 1 }, "the first token")
	f("kl of the first token", func(r *Row) { r.KL = []float32{1, 0, 0} }, "the first token")
	f("entropy of the first token", func(r *Row) { r.Entropy = []float32{1, 0, 0} }, "the first token")
	f("positive log-prob", func(r *Row) { r.Logprobs[1] = 0.1 }, "log-prob of token 1 is positive")
	f("negative importance weight", func(r *Row) { r.ImportanceWeights = []float32{1, -1, 1} },
		"importance weight of token 1 is negative")
	f("NaN importance weight", func(r *Row) { r.ImportanceWeights = []float32{1, 1, nan} },
		"importance weights of token 2 is NaN")
	f("advantage outside the mask", func(r *Row) { r.LossMask[1], r.Logprobs[1] = false, 0 },
		"not trained but has advantage")
	f("log-prob outside the mask", func(r *Row) { r.LossMask[1], r.Advantages[1] = false, 0 },
		"not trained but has log-prob")
}

func TestBadArgumentsAreNotSent(t *testing.T) {
	c := &Client{} // a network call would panic
	f := func(name, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	ctx := context.Background()
	bad := newRow(1, 2)
	bad.LossMask[0] = true
	_, _, err := c.ForwardBackward(ctx, []Row{newRow(1, 2), bad}, empo2Loss)
	f("bad row", "forward_backward: row 1: the first token", err)
	_, _, err = c.ForwardBackward(ctx, nil, empo2Loss)
	f("no rows", "no rows", err)
	_, err = c.Forward(ctx, []Row{{Tokens: []int32{1}}})
	f("short sequence", "forward: row 0: 1 tokens", err)
	_, err = c.OptimStep(ctx, Adam{LearningRate: math.NaN()})
	f("learning rate", "optim_step: learning_rate is NaN", err)
	f("name", `"../x" cannot be a name`, c.SaveWeights(ctx, "../x"))
	f("checkpoint", "neither a name nor a tinker:// path", c.LoadWeights(ctx, "a/b", true))
}

func TestEachLossGetsItsArrays(t *testing.T) {
	r := newRow(1, 2, 3)
	r.KL, r.Entropy, r.FloorExempt = []float32{0, 1, 1}, []float32{0, 1, 1}, true
	r.ImportanceWeights = []float32{1, 0.5, 2}
	want := map[string]string{
		"cross_entropy":       "target_tokens weights",
		"importance_sampling": "advantages logprobs target_tokens",
		"ppo":                 "advantages logprobs target_tokens",
		"empo2":               "advantages entropy floor_mask importance_weights kl logprobs loss_mask target_tokens",
	}
	for loss, names := range want {
		var got []string
		for name := range newDatum(r, loss).LossFnInputs {
			got = append(got, name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != names {
			t.Errorf("%s gets %v, want %s", loss, got, names)
		}
	}
}

func TestImportanceWeightsInOtherArrays(t *testing.T) {
	r := newRow(1, 2, 3)
	r.LossMask[1], r.Logprobs[1], r.Advantages[1] = false, 0, 0
	r.ImportanceWeights = []float32{1, 7, 0.25}
	f := func(loss, array string, want ...float32) {
		t.Helper()
		if diff := cmp.Diff(want, newDatum(r, loss).LossFnInputs[array].Data); diff != "" {
			t.Errorf("%s of %s (-want +got):\n%s", array, loss, diff)
		}
	}
	f("cross_entropy", "weights", 0, 0.25)
	f("ppo", "advantages", 0, 0.125)
	f("importance_sampling", "advantages", 0, 0.125)
	f("empo2", "advantages", 0, 0.5)
}

func TestLossMaskDefaultsToTheAdvantages(t *testing.T) {
	r := newRow(1, 2, 3)
	r.LossMask, r.Advantages[1] = nil, 0
	if got := newDatum(r, "empo2").LossFnInputs["loss_mask"].Data; !cmp.Equal([]int32{0, 1}, got) {
		t.Errorf("loss mask %v", got)
	}
	if _, sent := newDatum(r, "empo2").LossFnInputs["importance_weights"]; sent {
		t.Error("importance weights of 1 are sent")
	}
}
