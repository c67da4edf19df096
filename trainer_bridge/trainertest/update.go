package trainertest

import (
	"math"

	trainerbridge "github.com/empo2/empo2/trainer_bridge"
)

func (c *trial) logprobs() {
	a, b := c.rows()
	before := c.forward(a, b)
	_, got := c.backward(a, b)
	c.same("forward_backward", before, got)
	c.same("a gradient without a step", before, c.forward(a, b))
	c.step()
	c.changed("an optimizer step", before, c.forward(a, b))
	only := c.forward(trainerbridge.Row{Tokens: a.Tokens})
	c.same("forward of tokens alone", c.forward(a), only)
}

func (c *trial) sums() {
	a, b := c.rows()
	first, _ := c.backward(a)
	second, _ := c.backward(b)
	both, _ := c.backward(a, b)
	if got, want := both.Tokens(), 7.0; got != want {
		c.Errorf("%v tokens were trained; want %v", got, want)
	}
	if want := first.Loss() + second.Loss(); !near(both.Loss(), want) {
		c.Errorf("the loss of both rows is %v; the sum of their losses is %v", both.Loss(), want)
	}
	if want := -4*1 + 3*0.5; !near(both.Loss(), want) {
		c.Errorf("the loss at ratio 1 is %v; want %v", both.Loss(), want)
	}
	if !near(both.MeanRatio(), 1) {
		c.Errorf("the mean ratio is %v; want 1", both.MeanRatio())
	}
}

func (c *trial) masks() {
	a, _ := c.rows()
	a.ImportanceWeights = []float32{1, 0.5, 2, 0, 1}
	stats, _ := c.backward(a)
	if stats.Tokens() != 4 || !near(stats.Loss(), -3.5) {
		c.Errorf("importance weights: loss %v of %v tokens; want -3.5 of 4", stats.Loss(), stats.Tokens())
	}
	a.LossMask[2], a.Logprobs[2], a.Advantages[2] = false, 0, 0
	stats, _ = c.backward(a)
	if stats.Tokens() != 3 || !near(stats.Loss(), -1.5) {
		c.Errorf("loss mask: loss %v of %v tokens; want -1.5 of 3", stats.Loss(), stats.Tokens())
	}
	a.LossMask = nil
	stats, _ = c.backward(a)
	if stats.Tokens() != 3 || !near(stats.Loss(), -1.5) {
		c.Errorf("no loss mask: loss %v of %v tokens; want -1.5 of 3", stats.Loss(), stats.Tokens())
	}
}

func (c *trial) accumulation() {
	a, b := c.rows()
	c.backward(a)
	c.backward(b)
	parts := c.step()
	want := c.forward(a, b)
	c.restore(0)
	c.backward(a, b)
	if whole := c.step(); !near(parts, whole) || whole == 0 {
		c.Errorf("the gradient's norm is %v in two requests and %v in one", parts, whole)
	}
	c.same("two requests and one", want, c.forward(a, b))
	before := c.forward(a)
	c.backward(b)
	again := c.step()
	c.restore(0)
	c.backward(a, b)
	c.step()
	c.same("the same start", before, c.forward(a))
	c.backward(b)
	if norm := c.step(); !near(norm, again) {
		c.Errorf("the second step's gradient has norm %v, then %v: the first step did not clear it", again, norm)
	}
}

func (c *trial) repeatable() {
	a, b := c.rows()
	first := c.forward(a, b)
	c.backward(a, b)
	c.step()
	want := c.forward(a, b)
	c.restore(0)
	c.same("version 0", first, c.forward(a, b))
	c.backward(a, b)
	c.step()
	c.same("the first update", want, c.forward(a, b))
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-4*max(1, math.Abs(b)) }
