package report

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// rates returns pairs of which so many succeeded on both sides, only in A, only in B,
// and on none.
func rates(both, onlyA, onlyB, none int) []Pair {
	var out []Pair
	add := func(p Pair, n int) {
		for range n {
			out = append(out, p)
		}
	}
	add(Pair{A: 1, B: 1}, both)
	add(Pair{A: 1}, onlyA)
	add(Pair{B: 1}, onlyB)
	add(Pair{}, none)
	return out
}

func TestPairedRates(t *testing.T) {
	f := func(pairs []Pair, mean, low, high float64) {
		t.Helper()
		d := Paired95(pairs)
		if d.Low == nil {
			t.Fatalf("no interval: %+v", d)
		}
		if math.Abs(d.Mean-mean) > 5e-5 || math.Abs(*d.Low-low) > 5e-5 || math.Abs(*d.High-high) > 5e-5 {
			t.Errorf("%.4f, %.4f to %.4f, want %.4f, %.4f to %.4f", d.Mean, *d.Low, *d.High, mean, low, high)
		}
	}
	f(rates(36, 2, 12, 0), 0.2, 0.0569, 0.3404) // an example of Newcombe's paper
	f(rates(0, 0, 0, 10), 0, -0.2775, 0.2775)   // equal pairs do not mean that there is no doubt
	f(rates(0, 0, 10, 0), 1, 0.6075, 1)         // never beyond 1
}

func TestPairedReturns(t *testing.T) {
	f := func(pairs []Pair, mean, margin float64, method string) {
		t.Helper()
		d := Paired95(pairs)
		if d.Low == nil || math.Abs(d.Mean-mean) > 1e-9 || math.Abs(*d.High-mean-margin) > 1e-3 ||
			math.Abs(mean-*d.Low-margin) > 1e-3 || !strings.Contains(d.Method, method) {
			t.Errorf("%+v, want %g ± %g by %s", d, mean, margin, method)
		}
	}
	// differences 1, 2, 3: s² = 1, t(2) = 4.3027
	f([]Pair{{0, 0, 1}, {1, 0, 2}, {2, 0, 3}}, 2, 4.3027/math.Sqrt(3), "over tasks")
	// 0, 2 in one task and 10, 12 in another: s² = (2 + 2)/2 = 2 within them, t(2)
	f([]Pair{{0, 0, 0}, {0, 0, 2}, {1, 0, 10}, {1, 0, 12}}, 6, 4.3027*math.Sqrt(2.0/4), "within tasks")
	if d := Paired95([]Pair{{0, 1, 2.5}, {1, 2, 3.5}, {2, 3, 4.5}}); d.Low != nil {
		t.Errorf("equal differences say nothing about the spread: %+v", d)
	}
	if d := Paired95(nil); d.N != 0 || d.Low != nil {
		t.Errorf("no pairs: %+v", d)
	}
}

// looked reports after how many differences a rule decides, and for what; 0: never.
func looked(draw func() float64, n int, rule func(values []float64) (low, high float64)) (at int, sign float64) {
	var values []float64
	for i := range n {
		values = append(values, draw())
		if low, high := rule(values); i > 0 && (low > 0 || high < 0) {
			return i + 1, low + high
		}
	}
	return 0, 0
}

// differenceOf draws the difference of two successes, of rates a and b.
func differenceOf(rng *rand.Rand, a, b float64) func() float64 {
	hit := func(p float64) float64 {
		if rng.Float64() < p {
			return 1
		}
		return 0
	}
	return func() float64 { return hit(b) - hit(a) }
}

// Whoever looks after every pair decides between equal settings in at most 5 % of all
// cases with the confidence sequence. With an interval for a fixed number of pairs it
// happens far more often.
func TestLookingOftenIsHonest(t *testing.T) {
	const sequences, pairs = 300, 120
	byBetting := func() func([]float64) (float64, float64) {
		s := NewSequential(1)
		return func(values []float64) (float64, float64) {
			if err := s.Add(values[len(values)-1]); err != nil {
				t.Fatal(err)
			}
			d := s.Difference()
			return *d.Low, *d.High
		}
	}
	fixed := func(values []float64) (float64, float64) {
		all := make([]Pair, len(values))
		for i, v := range values {
			all[i] = Pair{Task: i, B: max(v, 0), A: max(-v, 0)}
		}
		d := Paired95(all)
		return *d.Low, *d.High
	}
	wrong, wrongFixed := 0, 0
	for i := range uint64(sequences) {
		rng := func() *rand.Rand { return rand.New(rand.NewPCG(i, 1)) }
		if at, _ := looked(differenceOf(rng(), 0.4, 0.4), pairs, byBetting()); at > 0 {
			wrong++
		}
		if at, _ := looked(differenceOf(rng(), 0.4, 0.4), pairs, fixed); at > 0 {
			wrongFixed++
		}
	}
	t.Logf("equal settings: %d of %d sequences decide; %d with an interval for a fixed number", wrong, sequences,
		wrongFixed)
	if wrong > sequences/20 || wrongFixed < sequences/8 {
		t.Errorf("%d and %d of %d sequences decide between equal settings", wrong, wrongFixed, sequences)
	}
	total := 0
	for i := range uint64(50) {
		at, sign := looked(differenceOf(rand.New(rand.NewPCG(i, 2)), 0.2, 0.6), 400, byBetting())
		if at == 0 || sign < 0 {
			t.Errorf("20 %% against 60 %%: decided after %d pairs for %g", at, sign)
		}
		total += at
	}
	t.Logf("20 %% against 60 %%: decided after %d pairs on average", total/50)
}

// The interval holds for other values than successes, and refuses values for which it
// would not hold.
func TestSequenceOfReturns(t *testing.T) {
	const mean = 1.5 // of −2 … 5
	outside := 0
	for i := range uint64(200) {
		rng, s := rand.New(rand.NewPCG(i, 3)), NewSequential(8)
		left := false
		for range 100 {
			if err := s.Add(-2 + 7*rng.Float64()); err != nil {
				t.Fatal(err)
			}
			d := s.Difference()
			left = left || *d.Low > mean || *d.High < mean
		}
		if left {
			outside++
		}
	}
	if outside > 10 {
		t.Errorf("%d of 200 sequences leave the mean", outside)
	}
	s := NewSequential(1)
	for _, v := range []float64{1.1, math.NaN(), math.Inf(1)} {
		if s.Add(v) == nil {
			t.Errorf("%g is taken", v)
		}
	}
}
