package report

import (
	"fmt"
	"math"
)

// Sequential is a 95 % confidence sequence of a mean of bounded values, by betting:
// the hedged capital process of Waudby-Smith and Ramdas ("Estimating means of bounded
// random variables by betting", Journal of the Royal Statistical Society B 86, 2024,
// section 4.3) with the bets of its equation 26. With a probability of at least 95 %
// the mean is in the interval after every value. So one may look after every value
// and stop whenever one likes.
//
// It holds without further assumptions if each value has the same mean, given the
// values before it. Pairs whose tasks are drawn at random fulfil this.
type Sequential struct {
	reach     float64 // values are from −reach to reach
	values    []float64
	bets      []float64
	sum, dev  float64 // of the values scaled to 0 … 1, and of their squared deviations
	low, high float64 // of the scaled mean
}

const (
	alpha = 0.05
	// stake is the largest share of the capital that a bet may lose.
	stake = 0.5
)

// NewSequential returns the sequence of values from −reach to reach, without values.
func NewSequential(reach float64) *Sequential { return &Sequential{reach: reach, low: 0, high: 1} }

// Add adds a value. A value outside of the range is an error: the interval would not
// hold.
func (s *Sequential) Add(value float64) error {
	if !(math.Abs(value) <= s.reach) { // NaN too
		return fmt.Errorf("a difference of %g is beyond ±%g", value, s.reach)
	}
	n := float64(len(s.values))
	x := (value/s.reach + 1) / 2
	variance := (0.25 + s.dev) / (n + 1)
	bet := math.Sqrt(2 * math.Log(2/alpha) / (variance * (n + 1) * math.Log(n+2)))
	s.values, s.bets = append(s.values, x), append(s.bets, bet)
	s.sum += x
	mean := (0.5 + s.sum) / (n + 2)
	s.dev += (x - mean) * (x - mean)
	s.low = s.bound(s.low, s.high, s.above)
	s.high = s.bound(s.high, s.low, s.below)
	return nil
}

// bound moves a bound inwards as far as the capital against it allows. Capital falls
// from the bound to the other end.
func (s *Sequential) bound(from, to float64, capital func(mean float64) float64) float64 {
	limit := math.Log(2 / alpha) // half of the capital bets on either side
	if capital(from) < limit {
		return from
	}
	if capital(to) >= limit { // by chance, in 5 % of all sequences at most
		return to
	}
	for range 24 { // 1e-7 of the range
		if middle := (from + to) / 2; capital(middle) >= limit {
			from = middle
		} else {
			to = middle
		}
	}
	return from
}

// above is the logarithm of what a gambler owns who bets that the mean is above m.
func (s *Sequential) above(m float64) float64 {
	capital := 0.0
	for i, x := range s.values {
		bet := s.bets[i]
		if m > 0 {
			bet = min(bet, stake/m)
		}
		capital += math.Log1p(bet * (x - m))
	}
	return capital
}

// below is the same for a mean below m.
func (s *Sequential) below(m float64) float64 {
	capital := 0.0
	for i, x := range s.values {
		bet := s.bets[i]
		if m < 1 {
			bet = min(bet, stake/(1-m))
		}
		capital += math.Log1p(-bet * (x - m))
	}
	return capital
}

// Decided reports whether the interval excludes 0.
func (s *Sequential) Decided() bool { return s.low > 0.5 || s.high < 0.5 }

// Difference returns the mean of the values and the interval.
func (s *Sequential) Difference() Difference {
	out := Difference{N: len(s.values), Method: methodBetting}
	if out.N > 0 {
		out.Mean = s.reach * (2*s.sum/float64(out.N) - 1)
	}
	out.set(s.reach*(2*s.low-1), s.reach*(2*s.high-1))
	return out
}
