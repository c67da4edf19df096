package orchestrator

import (
	"math"
	"slices"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// maskTruncated returns the rows without the loss on replies that were cut off
// at the limit of tokens. The rows together hold the sampled tokens of the
// turns once each, in order.
func maskTruncated(rows []rollout.Row, turns []rollout.Turn) []rollout.Row {
	var cut []bool // per trained token
	for _, turn := range turnsOfTokens(rows, turns) {
		cut = append(cut, turns[turn].Finish == sampler.FinishLength)
	}
	out := slices.Clone(rows)
	for i := range out {
		r := &out[i]
		r.LossMask, r.Logprobs = slices.Clone(r.LossMask), slices.Clone(r.Logprobs)
		for k, trained := range r.LossMask {
			if !trained || len(cut) == 0 {
				continue
			}
			if cut[0] {
				r.LossMask[k], r.Logprobs[k] = false, 0
			}
			cut = cut[1:]
		}
	}
	return out
}

// turnsOfTokens returns the turn of each trained token of the rows, in order.
func turnsOfTokens(rows []rollout.Row, turns []rollout.Turn) []int {
	var out []int
	for n, turn := range turns {
		for i := range turn.IDs {
			known := i < len(turn.Logprobs) && isFinite(turn.Logprobs[i])
			if known || len(rows) > 0 && rows[0].WithoutLogprobs {
				out = append(out, n)
			}
		}
	}
	return out
}

func isFinite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }
