package advantage

import (
	"math"
	"slices"
)

// Estimator says how the returns of a step become advantages. The names are verl's
// (algorithm.adv_estimator). In the formulas a group has n episodes with returns R_i,
// L_i trained tokens and mean return m.
type Estimator string

const (
	// GRPO is (R_i - m) / s with the standard deviation s, or R_i - m (Dr.GRPO, arXiv
	// 2503.20783). It is the only one with [TipFree].
	GRPO Estimator = "grpo"
	// RLOO subtracts the mean of the other returns, which gives n/(n-1) · (R_i - m)
	// (arXiv 2402.14740).
	RLOO Estimator = "rloo"
	// OPO subtracts the mean return of a token, ΣL·R / ΣL (arXiv 2505.23585).
	OPO Estimator = "opo"
	// ReinforcePP is REINFORCE++ with γ = 1 (arXiv 2501.03262): every trained token has
	// its episode's return, whitened over all trained tokens of the step. Groups do not
	// matter.
	ReinforcePP Estimator = "reinforce_plus_plus"
	// ReinforcePPBaseline subtracts m first. Groups of equal returns do not take part in
	// the whitening, which would give them an advantage.
	ReinforcePPBaseline Estimator = "reinforce_plus_plus_baseline"
	// MaxRL is (R_i - m) / m, for returns that are not negative; 0 if m is not positive
	// (arXiv 2602.02710).
	MaxRL Estimator = "maxrl"
)

// Options choose an estimator.
type Options struct {
	Estimator Estimator // empty: GRPO
	Baseline  Baseline  // of GRPO
	Normalize bool      // GRPO: divide by the standard deviation
}

// Estimated are the advantages of one group, in the order of its episodes.
type Estimated struct {
	Advantages []float64
	Gradient   bool // one of them is not 0
}

// whiteningEpsilon is added to the variance of REINFORCE++.
const whiteningEpsilon = 1e-8

// Step estimates the advantages of a step's groups. An episode that is alone in its
// group has the advantage 0, except with [ReinforcePP].
func Step(groups [][]Episode, o Options) []Estimated {
	out := make([]Estimated, len(groups))
	for i, g := range groups {
		out[i].Advantages = o.group(g)
	}
	switch o.Estimator {
	case ReinforcePP:
		whiten(groups, out, func(int) bool { return true })
	case ReinforcePPBaseline:
		whiten(groups, out, func(i int) bool { return slices.ContainsFunc(out[i].Advantages, nonzero) })
	}
	for i := range out {
		out[i].Gradient = slices.ContainsFunc(out[i].Advantages, nonzero)
	}
	return out
}

func nonzero(a float64) bool { return a != 0 }

// group returns the advantages of one group, before the whitening of REINFORCE++.
func (o Options) group(group []Episode) []float64 {
	switch o.Estimator {
	case "", GRPO:
		advantages, _ := Estimate(group, o.Baseline, o.Normalize)
		return advantages
	case ReinforcePP:
		returns := make([]float64, len(group))
		for i, e := range group {
			returns[i] = e.Return()
		}
		return returns
	}
	advantages, _ := Estimate(group, Group, false) // R_i - m, exactly 0 if all are equal
	m := mean(group, func(Episode) bool { return true }, Episode.Return)
	n := float64(len(group))
	switch o.Estimator {
	case RLOO:
		scale(advantages, n/max(n-1, 1))
	case MaxRL:
		if m > 0 {
			scale(advantages, 1/m)
		} else {
			clear(advantages)
		}
	case OPO:
		center(group, advantages)
	}
	return advantages
}

func scale(values []float64, by float64) {
	for i := range values {
		values[i] *= by
	}
}

// center makes the deviations from the mean return those from the mean return of a
// trained token. Equal returns stay exactly 0.
func center(group []Episode, deviations []float64) {
	sum, tokens := 0.0, 0.0
	for i, e := range group {
		sum, tokens = sum+float64(e.Tokens)*deviations[i], tokens+float64(e.Tokens)
	}
	if tokens == 0 || !slices.ContainsFunc(deviations, nonzero) {
		return
	}
	for i := range deviations {
		deviations[i] -= sum / tokens
	}
}

// whiten gives the values of the chosen groups the mean 0 and the variance 1 over their
// trained tokens (Bessel's correction).
func whiten(groups [][]Episode, values []Estimated, in func(group int) bool) {
	var count, total, squares float64
	each := func(f func(value *float64, tokens float64)) {
		for g, group := range groups {
			if !in(g) {
				continue
			}
			for i, e := range group {
				f(&values[g].Advantages[i], float64(e.Tokens))
			}
		}
	}
	each(func(v *float64, tokens float64) { count, total = count+tokens, total+tokens**v })
	m := total / max(count, 1)
	each(func(v *float64, tokens float64) {
		if *v -= m; math.Abs(*v) < smallest {
			*v = 0
		}
		squares += tokens * *v * *v
	})
	s := math.Sqrt(squares/max(count-1, 1) + whiteningEpsilon)
	each(func(v *float64, _ float64) { *v /= s })
}
