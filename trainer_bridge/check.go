package trainerbridge

import (
	"fmt"
	"math"
)

// Check says what is wrong with a row, or nil: lengths that differ, fewer than
// two tokens, a negative token, a number that is not finite, a trained first
// token, or a log-prob or advantage at a token that is not trained.
func (r Row) Check() error {
	n := len(r.Tokens)
	if n < 2 {
		return fmt.Errorf("%d tokens; at least 2 are needed, as the first is never trained", n)
	}
	for i, t := range r.Tokens {
		if t < 0 {
			return fmt.Errorf("token %d is negative: %d", i, t)
		}
	}
	arrays := []struct {
		name     string
		values   []float32
		optional bool
	}{
		{"weights", r.Weights, false}, {"logprobs", r.Logprobs, false},
		{"advantages", r.Advantages, false}, {"kl", r.KL, true},
	}
	for _, a := range arrays {
		if a.optional && a.values == nil {
			continue
		}
		if len(a.values) != n {
			return fmt.Errorf("%d %s for %d tokens", len(a.values), a.name, n)
		}
		if i := firstNotFinite(a.values); i >= 0 {
			return fmt.Errorf("%s of token %d is %v", a.name, i, a.values[i])
		}
		if a.values[0] != 0 {
			return fmt.Errorf("%s of the first token is %v; nothing predicts it, so it must be 0", a.name, a.values[0])
		}
	}
	return r.checkMask()
}

// checkMask holds the trained values to the loss mask.
func (r Row) checkMask() error {
	for i, w := range r.Weights {
		switch {
		case w < 0:
			return fmt.Errorf("weight of token %d is negative: %v", i, w)
		case w != 0:
			if r.Logprobs[i] > 0 {
				return fmt.Errorf("log-prob of token %d is positive: %v", i, r.Logprobs[i])
			}
		case r.Advantages[i] != 0:
			return fmt.Errorf("token %d is not trained but has advantage %v", i, r.Advantages[i])
		case r.Logprobs[i] != 0:
			return fmt.Errorf("token %d is not trained but has log-prob %v", i, r.Logprobs[i])
		}
	}
	return nil
}

func checkRows(rows []Row) error {
	if len(rows) == 0 {
		return fmt.Errorf("no rows")
	}
	for i, r := range rows {
		if err := r.Check(); err != nil {
			return fmt.Errorf("row %d: %w", i, err)
		}
	}
	return nil
}

func (a Adam) check() error {
	values := []struct {
		name string
		v    float64
	}{
		{"learning_rate", a.LearningRate}, {"beta1", a.Beta1}, {"beta2", a.Beta2},
		{"eps", a.Eps}, {"weight_decay", a.WeightDecay}, {"grad_clip_norm", a.GradClipNorm},
	}
	for _, p := range values {
		if math.IsNaN(p.v) || math.IsInf(p.v, 0) || p.v < 0 {
			return fmt.Errorf("%s is %v", p.name, p.v)
		}
	}
	return nil
}

func firstNotFinite(values []float32) int {
	for i, v := range values {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			return i
		}
	}
	return -1
}
