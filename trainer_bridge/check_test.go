package trainerbridge

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"
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
		r.Weights[1], r.Logprobs[1], r.Advantages[1], r.KL = 0, 0, 0, []float32{0, 0.5, 0.5}
	}, "")
	f("fractional weight", func(r *Row) { r.Weights[1] = 0.5 }, "")
	f("one token", func(r *Row) { *r = newRow(1) }, "1 tokens")
	f("no token", func(r *Row) { *r = Row{} }, "0 tokens")
	f("negative token", func(r *Row) { r.Tokens[2] = -1 }, "token 2 is negative")
	f("short weights", func(r *Row) { r.Weights = r.Weights[:2] }, "2 weights for 3 tokens")
	f("no log-probs", func(r *Row) { r.Logprobs = nil }, "0 logprobs for 3 tokens")
	f("long advantages", func(r *Row) { r.Advantages = append(r.Advantages, 0) }, "4 advantages for 3 tokens")
	f("empty kl", func(r *Row) { r.KL = []float32{} }, "0 kl for 3 tokens")
	f("NaN log-prob", func(r *Row) { r.Logprobs[1] = nan }, "logprobs of token 1 is NaN")
	f("infinite log-prob", func(r *Row) { r.Logprobs[2] = inf }, "logprobs of token 2 is -Inf")
	f("NaN kl", func(r *Row) { r.KL = []float32{0, nan, 0} }, "kl of token 1 is NaN")
	f("trained first token", func(r *Row) { r.Weights[0] = 1 }, "weights of the first token")
	f("kl of the first token", func(r *Row) { r.KL = []float32{1, 0, 0} }, "kl of the first token")
	f("positive log-prob", func(r *Row) { r.Logprobs[1] = 0.1 }, "log-prob of token 1 is positive")
	f("negative weight", func(r *Row) { r.Weights[1] = -1 }, "weight of token 1 is negative")
	f("advantage outside the mask", func(r *Row) { r.Weights[1], r.Logprobs[1] = 0, 0 }, "not trained but has advantage")
	f("log-prob outside the mask", func(r *Row) { r.Weights[1], r.Advantages[1] = 0, 0 }, "not trained but has log-prob")
}

func TestBadArgumentsAreNotSent(t *testing.T) {
	c := &Client{} // touching the network would panic
	f := func(name, want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	ctx := context.Background()
	bad := newRow(1, 2)
	bad.Weights[0] = 1
	_, _, err := c.ForwardBackward(ctx, []Row{newRow(1, 2), bad}, empo2Loss)
	f("bad row", "forward_backward: row 1: weights", err)
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
	r.KL = []float32{0, 1, 1}
	want := map[string]string{
		"cross_entropy":       "target_tokens weights",
		"importance_sampling": "advantages logprobs target_tokens",
		"ppo":                 "advantages logprobs target_tokens",
		"empo2":               "advantages kl logprobs target_tokens weights",
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
