package orchestrator

import (
	"fmt"
	"math"

	"github.com/empo2/empo2/sampler/rollout"
)

// Mismatch is the difference of the server's and the trainer's log-probs of the
// same tokens. The zero value means that no token was compared.
type Mismatch struct {
	Tokens int     `json:"tokens"` // trained tokens compared
	Mean   float64 `json:"mean"`   // mean difference in nats
	Max    float64 `json:"max"`    // largest difference in nats
	// KL estimates KL(server‖trainer) per token with the k3 estimator
	// r − 1 − log r, r = π_trainer/π_server (Schulman, "Approximating KL
	// divergence"): never negative, low variance.
	KL float64 `json:"kl"`
	// ESS is the effective sample size of the importance weights r as a share
	// of the tokens, (Σr)²/(n·Σr²): 1 if both agree.
	ESS float64 `json:"ess"`
}

// maxLogRatio keeps the squares of weights finite.
const maxLogRatio = 300

// compareLogprobs measures rows against the trainer's log-probs. trainer[i][k] is
// log π(token k+1 | tokens up to k) of rows[i]: one value less than tokens, as
// [sampler.Adapter].Score returns them. Only trained tokens count.
func compareLogprobs(rows []rollout.Row, trainer [][]float32) (Mismatch, error) {
	if len(rows) != len(trainer) {
		return Mismatch{}, fmt.Errorf("compare log-probs: %d rows, %d of the trainer", len(rows), len(trainer))
	}
	var m Mismatch
	var weights, squares float64
	for i, row := range rows {
		if len(trainer[i]) != len(row.Tokens)-1 {
			return Mismatch{}, fmt.Errorf("compare log-probs: row %d has %d tokens and %d log-probs",
				i, len(row.Tokens), len(trainer[i]))
		}
		for k, trained := range row.LossMask {
			if !trained || k == 0 {
				continue
			}
			if d := float64(trainer[i][k-1]); math.IsNaN(d) || math.IsInf(d, 0) {
				return Mismatch{}, fmt.Errorf("compare log-probs: the trainer's of token %d in row %d is %v",
					k, i, trainer[i][k-1])
			}
			d := min(float64(trainer[i][k-1])-float64(row.Logprobs[k]), maxLogRatio)
			r := math.Exp(d)
			m.Tokens++
			m.Mean += math.Abs(d)
			m.Max = math.Max(m.Max, math.Abs(d))
			m.KL += r - 1 - d
			weights, squares = weights+r, squares+r*r
		}
	}
	if m.Tokens == 0 {
		return m, nil
	}
	n := float64(m.Tokens)
	m.Mean, m.KL, m.ESS = m.Mean/n, m.KL/n, weights*weights/(n*squares)
	return m, nil
}
