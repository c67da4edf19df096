package trainertest

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"

	"github.com/google/go-cmp/cmp"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

// trained performs one update and saves it as version 1.
func (c *trial) trained() (a, b trainerbridge.Row) {
	c.Helper()
	a, b = c.rows()
	c.backward(a, b)
	c.step()
	c.save(1)
	return a, b
}

func (c *trial) roundTrip() {
	a, b := c.trained()
	saved := c.forward(a, b)
	c.backward(b) // the next step depends on the optimizer's moments of the first one
	c.step()
	want := c.forward(a, b)
	c.restore(1)
	c.same("version 1", saved, c.forward(a, b))
	c.backward(b)
	c.step()
	c.same("the step after version 1", want, c.forward(a, b))
	c.changed("a step", saved, want)
}

func (c *trial) restoreForgets() {
	a, b := c.trained()
	c.backward(b)
	norm := c.step()
	c.restore(1)
	c.backward(a)
	c.restore(1)
	c.backward(b)
	if got := c.step(); !near(got, norm) {
		c.Errorf("the gradient's norm is %v after a restore; want %v", got, norm)
	}
}

func (c *trial) export() {
	c.trained()
	first, err := c.Trainer.Export(c.Context(), 1)
	if err != nil {
		c.Fatal(err)
	}
	if !filepath.IsAbs(first.Dir) {
		c.Errorf("the folder %s is not absolute", first.Dir)
	}
	if _, err := os.Stat(filepath.Join(first.Dir, "adapter_config.json")); err != nil {
		c.Error(err)
	}
	c.restore(1)
	again, err := c.Trainer.Export(c.Context(), 1)
	if err != nil || !cmp.Equal(again, first) {
		c.Errorf("the same version exported again is %+v (%v); it was %+v", again, err, first)
	}
}

func (c *trial) badRows() {
	good, _ := c.trained()
	want := c.forward(good)
	nan := float32(math.NaN())
	f := func(name string, change func(r *trainerbridge.Row)) {
		c.Helper()
		r := c.row(1, 10, 11, 12)
		change(&r)
		if _, _, err := c.Trainer.ForwardBackward(c.Context(), []trainerbridge.Row{good, r}, loss); err == nil {
			c.Errorf("%s: accepted", name)
		} else if trainerbridge.Restartable(err) {
			c.Errorf("%s: Restartable is true for %v", name, err)
		}
		c.restore(1)
	}
	f("one token", func(r *trainerbridge.Row) { *r = trainerbridge.Row{Tokens: []int32{1}} })
	f("a negative token", func(r *trainerbridge.Row) { r.Tokens[1] = -1 })
	f("a short loss mask", func(r *trainerbridge.Row) { r.LossMask = r.LossMask[:2] })
	f("long log-probs", func(r *trainerbridge.Row) { r.Logprobs = append(r.Logprobs, 0) })
	f("no advantages", func(r *trainerbridge.Row) { r.Advantages = nil })
	f("a NaN advantage", func(r *trainerbridge.Row) { r.Advantages[1] = nan })
	f("a NaN log-prob", func(r *trainerbridge.Row) { r.Logprobs[1] = nan })
	f("a negative importance weight", func(r *trainerbridge.Row) { r.ImportanceWeights = []float32{1, -1, 1} })
	if _, _, err := c.Trainer.ForwardBackward(c.Context(), nil, loss); err == nil {
		c.Error("no rows: accepted")
	}
	if _, err := c.Trainer.Forward(c.Context(), []trainerbridge.Row{{}}); err == nil {
		c.Error("forward of an empty row: accepted")
	}
	c.restore(1)
	c.same("after all errors", want, c.forward(good))
}

func (c *trial) unknownVersion() {
	err := c.Trainer.Restore(c.Context(), 999_999)
	if err == nil || trainerbridge.Restartable(err) {
		c.Errorf("restore of a version that was never saved: %v", err)
	}
	c.restore(0)
	a, _ := c.trained()
	c.forward(a)
}

func (c *trial) cancelled() {
	a, b := c.trained()
	c.backward(b)
	norm := c.step()
	c.restore(1)
	ctx, cancel := context.WithCancelCause(c.Context())
	cancel(errors.New("stopped by the test"))
	if _, _, err := c.Trainer.ForwardBackward(ctx, []trainerbridge.Row{a}, loss); err == nil {
		c.Error("a cancelled call has no error")
	}
	c.restore(1)
	c.backward(b)
	if got := c.step(); !near(got, norm) {
		c.Errorf("the gradient's norm is %v after a cancelled call; want %v", got, norm)
	}
}

func (c *trial) killed() {
	if c.Kill == nil {
		c.Skip("this trainer cannot be killed")
	}
	a, b := c.trained()
	c.backward(b)
	c.step()
	want := c.forward(a, b)
	c.Kill()
	if _, err := c.Trainer.OptimStep(c.Context(), adam); err == nil || !trainerbridge.Restartable(err) {
		c.Fatalf("optim_step of a killed trainer: %v", err)
	}
	c.restore(1)
	c.backward(b)
	c.step()
	c.same("the step after version 1", want, c.forward(a, b))
}

func (c *trial) lostAnswers() {
	if c.LoseAnswer == nil {
		c.Skip("answers of this trainer cannot be lost")
	}
	a, b := c.trained()
	c.backward(a)
	c.backward(b)
	norm := c.step()
	want := c.forward(a, b)
	c.restore(1)
	for _, r := range []trainerbridge.Row{a, b} {
		c.LoseAnswer("forward_backward")
		c.backward(r)
	}
	c.LoseAnswer("optim_step")
	if got := c.step(); !near(got, norm) {
		c.Errorf("the gradient's norm is %v after lost answers; want %v", got, norm)
	}
	c.same("the update", want, c.forward(a, b))
}
