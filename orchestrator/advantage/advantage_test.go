package advantage

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestGRPO(t *testing.T) {
	got, ok := Estimate([]Episode{{Env: 1}, {Env: 0}, {Env: 0}, {Env: 0}}, Group, true)
	// mean 0.25, std with Bessel's correction 0.5
	want := []float64{1.5, -0.5, -0.5, -0.5}
	for i := range want {
		if !ok || math.Abs(got[i]-want[i]) > 1e-5 {
			t.Fatalf("got %v %v, want %v", got, ok, want)
		}
	}
	if got, _ := Estimate([]Episode{{Env: 1}, {Env: 0}}, Group, false); got[0] != 0.5 || got[1] != -0.5 {
		t.Errorf("without the std: got %v", got)
	}
}

// The intrinsic reward counts in the advantage. The reference implementation
// computes it and leaves it out.
func TestIntrinsicRewardReachesTheAdvantage(t *testing.T) {
	f := func(b Baseline) {
		t.Helper()
		group := []Episode{{Tips: true, Bonus: 1}, {Tips: true}, {}, {}}
		got, ok := Estimate(group, b, true)
		if !ok || got[0] <= got[1] {
			t.Errorf("%s: equal environment returns, different bonus: got %v, %v", b, got, ok)
		}
	}
	f(Group)
	f(TipFree)
}

func TestEqualReturnsCarryNoGradient(t *testing.T) {
	for _, b := range []Baseline{Group, TipFree} {
		for _, r := range []float64{0, 1, 0.1 + 0.2} {
			group := []Episode{{Env: r}, {Env: r, Tips: true}, {Env: r, Tips: true, OffPolicy: true}, {Env: r}}
			if got, ok := Estimate(group, b, true); ok {
				t.Errorf("%s, return %g: got %v", b, r, got)
			}
		}
	}
	if _, ok := Estimate([]Episode{{Env: 1}}, Group, true); ok {
		t.Error("a group of one has a gradient")
	}
}

// All episodes with tips succeed and no tip-free one does. The returns of those
// with tips are equal, but the off-policy ones must still have an advantage.
func TestTipFreeBaselineKeepsTheTransferAlive(t *testing.T) {
	transferred := Episode{Env: 1, Tips: true, OffPolicy: true}
	group := []Episode{{}, {}, transferred, transferred, {Env: 1, Tips: true}}
	got, _ := Estimate(group, TipFree, true)
	if got[2] <= 0 || got[3] <= 0 || got[0] != 0 {
		t.Errorf("off-policy successes: got %v", got)
	}
	if got[4] != 0 {
		t.Errorf("the on-policy episode with tips is compared with the other episodes with tips: got %v", got)
	}
	// If the policy succeeds without tips, nothing is left to transfer.
	group[0].Env, group[1].Env = 1, 1
	if got, ok := Estimate(group, TipFree, true); ok {
		t.Errorf("got %v", got)
	}
}

// Returns that coincide across kinds (success without tips, bonus with them)
// have no standard deviation to divide by.
func TestCoincidingReturnsDoNotExplode(t *testing.T) {
	guided := Episode{Bonus: 1, Tips: true, OffPolicy: true}
	group := []Episode{{Env: 1}, {Env: 1}, guided, guided}
	got, ok := Estimate(group, TipFree, true)
	if !ok || got[2] != -1 || got[0] != 0 {
		t.Errorf("got %v, %v", got, ok)
	}
}

func TestGroupAdvantagesSumToZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		group := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Episode {
			return Episode{Env: rapid.Float64Range(-100, 100).Draw(t, "env"),
				Bonus: rapid.Float64Range(0, 10).Draw(t, "bonus"), Tips: rapid.Bool().Draw(t, "tips")}
		}), 2, 32).Draw(t, "group")
		got, _ := Estimate(group, Group, rapid.Bool().Draw(t, "normalize"))
		sum, largest := 0.0, 1.0
		for _, a := range got {
			sum += a
			largest = max(largest, math.Abs(a))
		}
		if math.Abs(sum) > 1e-6*largest {
			t.Fatalf("sum %g of %v", sum, got)
		}
	})
}
