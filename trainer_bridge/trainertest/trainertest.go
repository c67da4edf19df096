// Package trainertest is the conformance suite for trainers. Start with [Run].
// The real trainer and the fake one of package fakeserver both pass it.
package trainertest

import (
	"context"
	"math"
	"testing"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// Trainer has the methods of a trainer that the training loop calls.
type Trainer interface {
	ForwardBackward(ctx context.Context, rows []trainerbridge.Row, loss trainerbridge.Loss) (
		trainerbridge.Stats, [][]float32, error)
	OptimStep(ctx context.Context, adam trainerbridge.Adam) (trainerbridge.Stats, error)
	Forward(ctx context.Context, rows []trainerbridge.Row) ([][]float32, error)
	Save(ctx context.Context, version int) error
	Export(ctx context.Context, version int) (trainerbridge.Exported, error)
	Restore(ctx context.Context, version int) error
}

// Suite names the trainer to test and the faults that it can simulate.
type Suite struct {
	// Trainer is used by all tests, one after the other. It knows the loss
	// empo2 and the tokens 0 to 63.
	Trainer Trainer
	// Kill ends the trainer's process without warning. Nil skips the tests of
	// restarts.
	Kill func()
	// LoseAnswer drops the connection of the next call of an operation, for
	// example "optim_step", after the trainer has done the work. Nil skips the
	// tests of repeated requests.
	LoseAnswer func(op string)
}

// Run runs the suite.
func (s Suite) Run(t *testing.T) {
	tests := []struct {
		name string
		run  func(*trial)
	}{
		{"log-probs are those from before the update", (*trial).logprobs},
		{"losses are sums over trained tokens", (*trial).sums},
		{"the loss mask and the importance weights act per token", (*trial).masks},
		{"gradients accumulate until the optimizer step", (*trial).accumulation},
		{"equal updates of equal adapters are equal", (*trial).repeatable},
		{"training continues exactly after a restore", (*trial).roundTrip},
		{"a restore clears the accumulated gradient", (*trial).restoreForgets},
		{"an export is complete and can be repeated", (*trial).export},
		{"bad rows are refused", (*trial).badRows},
		{"an unknown version cannot be restored", (*trial).unknownVersion},
		{"a cancelled call can be recovered from", (*trial).cancelled},
		{"a killed trainer is restored", (*trial).killed},
		{"an update whose answer is lost is applied once", (*trial).lostAnswers},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &trial{T: t, Suite: s}
			c.restore(0)
			test.run(c)
		})
	}
}

// trial is one test. It begins with version 0.
type trial struct {
	*testing.T
	Suite
}

// A trial's optimizer and loss. The learning rate makes every step visible.
// The log-prob floor is off, because most log-probs of an untrained policy are
// low.
var (
	adam = trainerbridge.Adam{LearningRate: 1e-2, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8}
	loss = trainerbridge.Loss{Name: "empo2", Config: map[string]float64{
		"clip_low_threshold": 0.8, "clip_high_threshold": 1.3, "dual_clip": 10, "logprob_floor": -1e30,
	}}
)

// tolerance is the rounding error in nats of equal calculations in another
// order.
const tolerance = 1e-4

// row trains all tokens but the first with one advantage, at ratio 1.
func (c *trial) row(advantage float32, tokens ...int32) trainerbridge.Row {
	c.Helper()
	n := len(tokens)
	r := trainerbridge.Row{
		Tokens: tokens, LossMask: make([]bool, n), Logprobs: make([]float32, n), Advantages: make([]float32, n),
	}
	copy(r.Logprobs[1:], c.forward(r)[0])
	for i := 1; i < n; i++ {
		r.LossMask[i], r.Advantages[i] = true, advantage
	}
	return r
}

// rows are two rows whose gradients differ.
func (c *trial) rows() (a, b trainerbridge.Row) {
	c.Helper()
	return c.row(1, 10, 11, 12, 13, 14), c.row(-0.5, 20, 21, 10, 23)
}

func (c *trial) forward(rows ...trainerbridge.Row) [][]float32 {
	c.Helper()
	logprobs, err := c.Trainer.Forward(c.Context(), rows)
	if err != nil {
		c.Fatalf("forward: %v", err)
	}
	if len(logprobs) != len(rows) {
		c.Fatalf("forward: log-probs of %d rows for %d rows", len(logprobs), len(rows))
	}
	for i, r := range rows {
		checkLogprobs(c.T, r, logprobs[i])
	}
	return logprobs
}

func checkLogprobs(t *testing.T, r trainerbridge.Row, logprobs []float32) {
	t.Helper()
	if len(logprobs) != len(r.Tokens)-1 {
		t.Fatalf("%d log-probs for %d tokens", len(logprobs), len(r.Tokens))
	}
	for i, lp := range logprobs {
		if v := float64(lp); math.IsNaN(v) || math.IsInf(v, 0) || v > 1e-5 {
			t.Fatalf("log-prob of token %d is %v", i+1, v)
		}
	}
}

func (c *trial) backward(rows ...trainerbridge.Row) (trainerbridge.Stats, [][]float32) {
	c.Helper()
	stats, logprobs, err := c.Trainer.ForwardBackward(c.Context(), rows, loss)
	if err != nil {
		c.Fatalf("forward_backward: %v", err)
	}
	return stats, logprobs
}

// step makes an optimizer step and returns the norm of the gradient.
func (c *trial) step() float64 {
	c.Helper()
	stats, err := c.Trainer.OptimStep(c.Context(), adam)
	if err != nil {
		c.Fatalf("optim_step: %v", err)
	}
	return stats.GradNorm()
}

func (c *trial) save(version int) {
	c.Helper()
	if err := c.Trainer.Save(c.Context(), version); err != nil {
		c.Fatalf("save %d: %v", version, err)
	}
}

func (c *trial) restore(version int) {
	c.Helper()
	if err := c.Trainer.Restore(c.Context(), version); err != nil {
		c.Fatalf("restore %d: %v", version, err)
	}
}

// same fails the test if two lists of log-probs differ by more than tolerance.
func (c *trial) same(what string, want, got [][]float32) {
	c.Helper()
	if d := difference(want, got); !(d <= tolerance) {
		c.Errorf("%s: log-probs differ by %.2g nats", what, d)
	}
}

// changed fails the test if two lists of log-probs differ by less than
// tolerance.
func (c *trial) changed(what string, before, after [][]float32) {
	c.Helper()
	if d := difference(before, after); d <= tolerance {
		c.Errorf("%s: log-probs differ by only %.2g nats", what, d)
	}
}

// difference returns the largest difference. It is infinite if the shapes
// differ.
func difference(a, b [][]float32) float64 {
	largest := 0.0
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		if len(a[i]) != len(b[i]) {
			return math.Inf(1)
		}
		for k := range a[i] {
			largest = max(largest, math.Abs(float64(a[i][k])-float64(b[i][k])))
		}
	}
	return largest
}
