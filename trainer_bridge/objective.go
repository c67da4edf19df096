package trainerbridge

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// The surrogates of the loss empo2, in the order of SURROGATES in empo2_trainer/losses.py.
const (
	surrogateClip = iota
	surrogateCISPO
	surrogateSAPO
	surrogateDPPO
	surrogateGSPO
	surrogates // their number
)

// Bounds of the exponent of a ratio, as in losses.py: of a token's, and of a row's (gspo).
const (
	maxLogRatio         = 700
	maxSequenceLogRatio = 10
)

// An objective is the loss empo2 as a function of the log-probs of the taken tokens. Its gradient
// by them is all that a trainer needs to know: any other loss with the same gradient makes the same update.
type objective struct {
	low, high, dual, floor float64
	surrogate              int
	k3                     bool // the KL divergence is estimated on the taken tokens
	name                   string
}

// newObjective reads a loss. The missing values are the defaults of losses.py. A loss or a number that it does not
// know is an error: the trainer would train another loss.
func newObjective(loss Loss) (objective, error) {
	value := func(key string, otherwise float64) float64 {
		if v, ok := loss.Config[key]; ok {
			return v
		}
		return otherwise
	}
	surrogate, estimator := value("surrogate", surrogateClip), value("kl_estimator", 0)
	o := objective{name: loss.Name, low: value("clip_low_threshold", 0.8), high: value("clip_high_threshold", 1.3),
		dual: value("dual_clip", 10), floor: value("logprob_floor", -5), surrogate: int(surrogate), k3: estimator == 1}
	if loss.Name != "empo2" && loss.Name != "cross_entropy" {
		return o, fmt.Errorf("the loss %q cannot be expressed for this trainer", loss.Name)
	}
	if surrogate != math.Trunc(surrogate) || surrogate < 0 || surrogate >= surrogates {
		return o, fmt.Errorf("the surrogate %v cannot be expressed for this trainer", surrogate)
	}
	if estimator != 0 && estimator != 1 {
		return o, fmt.Errorf("the KL estimator %v cannot be expressed for this trainer", estimator)
	}
	return o, nil
}

// errExactKL and errEntropy say what cannot be expressed by the log-probs of the taken tokens alone.
var (
	errExactKL = errors.New("the exact KL divergence to the base model needs the probabilities of all tokens, which " +
		"this trainer does not give\n  hint: loss.kl_estimator = \"k3\" estimates it on the taken tokens; or set " +
		"loss.kl and loss.kl_sampled to 0")
	errEntropy = errors.New("the entropy bonus needs the probabilities of all tokens, which this trainer does not give\n" +
		"  hint: set loss.entropy to 0")
)

// wantsBase reports whether a row has a KL divergence to the base model.
func (r Row) wantsBase() bool {
	return slices.ContainsFunc(r.KL, func(c float32) bool { return c != 0 })
}

// express replaces a row by one of the loss importance_sampling that has the same gradient at the present weights.
// logprobs are those of tokens[1:] under these weights, base those under the base model; nil: unknown. With q = logp
// its ratio is 1, so that its gradient by logp is −A: A is the negative of the wanted one. The values of the loss
// and of its parts are added to the metrics.
func (o objective) express(r Row, logprobs, base []float32, metrics Stats) (Row, error) {
	out := Row{Tokens: r.Tokens, Logprobs: make([]float32, len(r.Tokens)), Advantages: make([]float32, len(r.Tokens))}
	metrics["row_tokens:sum"] += float64(len(r.Tokens) - 1)
	logRatio := o.logRatios(r, logprobs)
	for i := 1; i < len(r.Tokens); i++ {
		gradient, logp := 0.0, float64(logprobs[i-1])
		if r.Trains(i) {
			gradient = o.token(r, i, logp, logRatio, metrics)
		}
		if r.KL != nil && r.KL[i] != 0 {
			if !o.k3 || base == nil {
				return out, errExactKL
			}
			gradient += k3(float64(r.KL[i]), logp, float64(base[i-1]), metrics)
		}
		if r.Entropy != nil && r.Entropy[i] != 0 {
			return out, errEntropy
		}
		if gradient != 0 {
			out.Logprobs[i], out.Advantages[i] = min(logprobs[i-1], 0), -float32(gradient)
		}
	}
	return out, nil
}

// k3 adds Schulman's estimate of KL(π‖π_base) on a taken token to the metrics and returns its derivative by logp.
func k3(coefficient, logp, base float64, metrics Stats) float64 {
	gap := min(base-logp, maxLogRatio)
	value := math.Exp(gap) - gap - 1
	metrics["loss:sum"] += coefficient * value
	metrics["kl_base:sum"] += value
	metrics["kl_tokens:sum"]++
	return coefficient * (1 - math.Exp(gap))
}

// logRatios returns the log-ratio of each token, which gspo replaces by one of the whole row: the mean over its trained
// tokens (arXiv 2507.18071, equation 7). A token that the floor masks does not count, as in sequence_log_ratio of
// losses.py: a single one without tips would move the ratio of the whole row.
func (o objective) logRatios(r Row, logprobs []float32) func(i int) float64 {
	one := func(i int) float64 { return min(float64(logprobs[i-1])-float64(r.Logprobs[i]), maxLogRatio) }
	if o.surrogate != surrogateGSPO {
		return one
	}
	sum, n := 0.0, 0
	for i := 1; i < len(r.Tokens); i++ {
		if r.Trains(i) && !o.floors(r, float64(logprobs[i-1])) {
			sum, n = sum+float64(logprobs[i-1])-float64(r.Logprobs[i]), n+1
		}
	}
	mean := min(sum/float64(max(1, n)), maxSequenceLogRatio)
	return func(int) float64 { return mean }
}

// floors reports whether the floor masks a token of this log-prob.
func (o objective) floors(r Row, logp float64) bool { return !r.FloorExempt && logp < o.floor }

// token returns the derivative of a trained token's policy loss by logp, and adds to the metrics.
func (o objective) token(r Row, i int, logp float64, logRatio func(int) float64, metrics Stats) float64 {
	weight := float64(r.weight(i))
	metrics["tokens:sum"]++
	if o.name == "cross_entropy" {
		metrics["loss:sum"] -= weight * logp
		return -weight
	}
	q, a := float64(r.Logprobs[i]), float64(r.Advantages[i])
	ratio := math.Exp(logRatio(i))
	value, slope, clipped := o.term(logp, q, ratio, a)
	metrics["approx_kl:sum"] += q - logp
	if clipped {
		metrics["clipped:sum"]++
	}
	if o.floors(r, logp) {
		metrics["masked:sum"]++
		return 0
	}
	metrics["ratio:sum"] += ratio
	metrics["ratio_max:max"] = max(metrics["ratio_max:max"], ratio)
	metrics["loss:sum"] -= weight * value
	if clipped {
		return 0
	}
	return -weight * slope
}

// term is the gain of a token and its derivative by logp; clipped means that there is none. The
// formulas are those of losses.py. gspo is clip with the ratio of the row.
func (o objective) term(logp, q, ratio, a float64) (value, slope float64, clipped bool) {
	bounded := min(max(ratio, o.low), o.high)
	switch o.surrogate {
	case surrogateCISPO:
		slope = bounded * a
		return slope * logp, slope, false
	case surrogateSAPO:
		tau := 1.05
		if a > 0 {
			tau = 1
		}
		gate := 1 / (1 + math.Exp(-tau*(ratio-1)))
		return 4 / tau * gate * a, 4 * gate * (1 - gate) * a * min(ratio, 1e3), false
	case surrogateDPPO:
		moved := math.Exp(logp) - math.Exp(q)
		if a > 0 && moved > o.high-1 || a <= 0 && moved < -(1-o.low) {
			return 0, 0, true
		}
		return ratio * a, ratio * a, false
	}
	slope, value = ratio*a, min(ratio*a, bounded*a)
	clipped = value < slope
	if o.dual > 0 && a < 0 && value < o.dual*a {
		value, clipped = o.dual*a, true
	}
	return value, slope, clipped
}

// scaled undoes the means of a trainer whose gradient is the mean over rows of the mean over positions.
// rows is the number of rows of the optimizer step.
func (r Row) scaled(rows int) Row {
	factor := float32(rows * (len(r.Tokens) - 1))
	out := r
	out.Advantages = make([]float32, len(r.Advantages))
	for i, a := range r.Advantages {
		out.Advantages[i] = a * factor
	}
	return out
}
