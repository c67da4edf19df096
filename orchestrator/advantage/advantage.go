// Package advantage estimates group-relative advantages: one number per episode,
// which later applies to every token that the policy wrote. Its functions are
// pure.
package advantage

import "math"

// epsilon keeps the division by a small standard deviation finite (GRPO's
// 1e-6).
const epsilon = 1e-6

// smallest is the least difference of returns that is not rounding.
const smallest = 1e-9

// Episode is one finished episode of a group, as far as the estimate needs it.
type Episode struct {
	Env       float64 // Σ_t r_t^env, with the penalties of long replies
	Bonus     float64 // λ · Σ_t r_t^int; 0 without memory
	Tips      bool    // sampled with tips
	OffPolicy bool    // trained with its tips removed
	Tokens    int     // trained; the weight of the episode in OPO and REINFORCE++
}

// Return is R = Σ_t (r_t^env + λ · r_t^int) (EMPO², section 4.1): the
// intrinsic reward always counts.
func (e Episode) Return() float64 { return e.Env + e.Bonus }

// Tied reports whether a group has no two different returns, so that its episodes say
// nothing about each other.
func Tied(group []Episode) bool {
	for _, e := range group {
		if math.Abs(e.Return()-group[0].Return()) >= smallest {
			return false
		}
	}
	return true
}

// Baseline says which mean an episode's return is compared with.
type Baseline string

const (
	// Group is GRPO's: the mean return of the whole group.
	Group Baseline = "group"
	// TipFree is for mixed groups. Episodes that are trained without tips are
	// compared with the mean environment return of the group's tip-free
	// episodes, which were sampled exactly as the policy is trained. Episodes
	// trained with tips are compared with the mean of those sampled with tips.
	// The bonus is centred among the episodes sampled with tips.
	TipFree Baseline = "tip-free"
)

// Estimate returns the advantages of one group, in order, divided by the
// standard deviation of its returns (Bessel's correction) if normalize is
// set. If no episode has an advantage, ok is false: the group carries no
// gradient.
func Estimate(group []Episode, b Baseline, normalize bool) (advantages []float64, ok bool) {
	advantages = make([]float64, len(group))
	if len(group) < 2 {
		return advantages, false
	}
	scale := 1.0
	if s := std(group); normalize && (s > epsilon || b == Group) {
		// With TipFree all returns of a group may be equal and still differ
		// from their baselines. Then the division would only magnify them.
		scale = 1 / (s + epsilon)
	}
	center := centers(group, b)
	for i, e := range group {
		a := e.Return() - center(e)
		if math.Abs(a) < smallest { // equal returns up to rounding
			continue
		}
		advantages[i] = a * scale
		ok = true
	}
	return advantages, ok
}

// centers returns the baseline of each kind of episode.
func centers(group []Episode, b Baseline) func(Episode) float64 {
	all := func(Episode) bool { return true }
	tips := func(e Episode) bool { return e.Tips }
	free := func(e Episode) bool { return !e.Tips }
	if b != TipFree || !contains(group, free) {
		m := mean(group, all, Episode.Return)
		return func(Episode) float64 { return m }
	}
	env := func(e Episode) float64 { return e.Env }
	bonus := func(e Episode) float64 { return e.Bonus }
	freeEnv, tipEnv, tipBonus := mean(group, free, env), mean(group, tips, env), mean(group, tips, bonus)
	return func(e Episode) float64 {
		switch {
		case !e.Tips:
			return freeEnv
		case e.OffPolicy:
			return freeEnv + tipBonus
		default:
			return tipEnv + tipBonus
		}
	}
}

func contains(group []Episode, in func(Episode) bool) bool {
	for _, e := range group {
		if in(e) {
			return true
		}
	}
	return false
}

// mean is 0 over no episode.
func mean(group []Episode, in func(Episode) bool, value func(Episode) float64) float64 {
	sum, n := 0.0, 0
	for _, e := range group {
		if in(e) {
			sum += value(e)
			n++
		}
	}
	return sum / float64(max(n, 1))
}

func std(group []Episode) float64 {
	m := mean(group, func(Episode) bool { return true }, Episode.Return)
	sum := 0.0
	for _, e := range group {
		sum += (e.Return() - m) * (e.Return() - m)
	}
	return math.Sqrt(sum / float64(len(group)-1))
}
