package orchestrator

import (
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/sampler/rollout"
)

// overlong is the penalty of a reply of so many tokens, 0 or below (soft overlong
// punishment of DAPO, arXiv 2503.14476, equation 13): with b = rollout.overlong_buffer it
// falls from 0 at max_tokens − b to −overlong_factor at max_tokens.
func overlong(c config.Rollout, tokens int) float64 {
	if c.OverlongBuffer == 0 {
		return 0
	}
	beyond := float64(tokens - (c.MaxTokens - c.OverlongBuffer))
	return min(-beyond/float64(c.OverlongBuffer)*c.OverlongFactor, 0)
}

// overlongSum is the sum of the penalties of an episode's replies.
func overlongSum(c config.Rollout, t rollout.Trajectory) float64 {
	sum := 0.0
	for _, turn := range t.Turns {
		sum += overlong(c, len(turn.IDs))
	}
	return sum
}
