package trainerbridge

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// errUnknownScale is returned for a trainer whose gradients are neither sums nor means.
var errUnknownScale = errors.New("how the trainer scales gradients is not known")

// takesMeans measures whether a trainer takes means over rows and positions, or sums. SkyRL's backends differ, and the
// server does not name its backend. It uses an adapter that is removed afterwards, and a learning rate of 0.
//
// The norms of three gradients decide. The policy is causal, so that the same token has the same gradient in each.
//
//	          one row of 1 position   the same row twice   one row of 4 positions, of which one counts
//	sums      g                       2g                   g
//	means     g                       g                    g/4
func takesMeans(ctx context.Context, cfg ClientConfig) (bool, error) {
	c, err := Dial(ctx, cfg)
	if err != nil {
		return false, err
	}
	defer func() {
		c.unload(ctx)
		c.Close()
	}()
	short, long := rowWithOneAdvantage(2), rowWithOneAdvantage(5)
	var norms [3]float64
	for i, rows := range [][]Row{{short}, {short, short}, {long}} {
		if norms[i], err = c.norm(ctx, rows); err != nil {
			return false, fmt.Errorf("measure the scale of gradients: %w", err)
		}
	}
	return scaleOf(norms[0], norms[1], norms[2])
}

// scaleOf decides by the norms of takesMeans.
func scaleOf(one, twice, long float64) (means bool, err error) {
	near := func(norm, want float64) bool { return math.Abs(norm-want) <= 0.05*want }
	switch {
	case !(one > 0) || math.IsInf(one, 0):
	case near(twice, 2*one) && near(long, one):
		return false, nil
	case near(twice, one) && near(long, one/4):
		return true, nil
	}
	return false, fmt.Errorf("%w: the norm of a gradient is %.4g, %.4g with its row twice, and %.4g in a row of four "+
		"positions; sums would double it, means would divide the last by four\n"+
		"  hint: use SkyRL's JAX backend, empo2 trainer on another machine, or no trainer.url", errUnknownScale,
		one, twice, long)
}

// rowWithOneAdvantage is a row of n tokens of which the second has an advantage. Its behaviour log-prob is that of a
// rare token, so that the ratio is not too small.
func rowWithOneAdvantage(n int) Row {
	r := Row{Tokens: make([]int32, n), Logprobs: make([]float32, n), Advantages: make([]float32, n)}
	for i := range r.Tokens {
		r.Tokens[i] = int32(10 + i)
	}
	r.Logprobs[1], r.Advantages[1] = -10, 1
	return r
}

// norm is that of the gradient of importance_sampling. It makes an optimizer step with a learning rate of 0.
func (c *Client) norm(ctx context.Context, rows []Row) (float64, error) {
	if _, _, err := c.ForwardBackward(ctx, rows, importanceSampling); err != nil {
		return 0, err
	}
	stats, err := c.OptimStep(ctx, Adam{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8})
	return stats.GradNorm(), err
}
