package trainerbridge

import (
	"errors"
	"fmt"
	"math"
)

// Check returns an error if the row has fewer than two tokens, a negative
// token, arrays of another length, a number that is not finite, a trained first
// token, a negative importance weight, or a log-prob or an advantage at a token
// that is not trained.
func (r Row) Check() error {
	n := len(r.Tokens)
	if n < 2 {
		return fmt.Errorf("%d tokens; a row needs at least 2, since the first is never trained", n)
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
		{"logprobs", r.Logprobs, false}, {"advantages", r.Advantages, false},
		{"importance weights", r.ImportanceWeights, true}, {"kl", r.KL, true}, {"entropy", r.Entropy, true},
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
	}
	return r.checkMask()
}

// checkMask checks the values that depend on whether a token is trained.
func (r Row) checkMask() error {
	if r.LossMask != nil && len(r.LossMask) != len(r.Tokens) {
		return fmt.Errorf("loss mask of %d values for %d tokens", len(r.LossMask), len(r.Tokens))
	}
	if r.Trains(0) || (r.KL != nil && r.KL[0] != 0) || (r.Entropy != nil && r.Entropy[0] != 0) {
		return errors.New("the first token is trained or has a coefficient, but nothing predicts it")
	}
	for i := range r.Tokens {
		trained := r.Trains(i)
		switch {
		case trained && r.Logprobs[i] > 0:
			return fmt.Errorf("log-prob of token %d is positive: %v", i, r.Logprobs[i])
		case trained && r.weight(i) < 0:
			return fmt.Errorf("importance weight of token %d is negative: %v", i, r.weight(i))
		case !trained && r.Advantages[i] != 0:
			return fmt.Errorf("token %d is not trained but has advantage %v", i, r.Advantages[i])
		case !trained && r.Logprobs[i] != 0 && r.LossMask != nil:
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
