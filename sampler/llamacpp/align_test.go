package llamacpp

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func entries(ids []int32, logprobs ...float32) []entry {
	var out []entry
	for i, id := range ids {
		out = append(out, entry{id, &logprobs[i]})
	}
	return out
}

func TestAlign(t *testing.T) {
	nan := float32(math.NaN())
	f := func(name string, ids []int32, e []entry, want []float32) {
		t.Helper()
		got, err := align(ids, e)
		if want == nil && err == nil {
			t.Errorf("%s: %v, want an error", name, got)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); want != nil && (diff != "" || err != nil) {
			t.Errorf("%s: %v %s", name, err, diff)
		}
	}
	f("complete", []int32{5, 6, 5}, entries([]int32{5, 6, 5}, -1, -2, -3), []float32{-1, -2, -3})
	f("gap first", []int32{5, 6}, entries([]int32{6}, -2), []float32{nan, -2})
	f("gap last", []int32{5, 6}, entries([]int32{5}, -2), []float32{-2, nan})
	// E2 80 80 byte by byte: the entry may belong to either 128.
	f("ambiguous", []int32{226, 128, 128, 7}, entries([]int32{128, 7}, -2, -1), []float32{nan, nan, nan, -1})
	f("unfinished character", []int32{226, 128}, nil, []float32{nan, nan})
	f("rounded up", []int32{5}, entries([]int32{5}, 1e-6), []float32{0})
	f("not finite", []int32{5, 6}, []entry{{ID: 5}, {6, ptr(-3.4e38)}}, []float32{nan, nan})
	f("no log-probs", []int32{1, 2, 3, 4}, nil, nil)
	f("another id", []int32{5, 6}, entries([]int32{7}, -1), nil)
	f("another order", []int32{5, 6}, entries([]int32{6, 5}, -1, -1), nil)
	f("too many", []int32{5}, entries([]int32{5, 5}, -1, -1), nil)
	f("positive", []int32{5}, entries([]int32{5}, 0.5), nil)
}

func ptr(v float32) *float32 { return &v }

// Every assigned log-prob belongs to its token, whichever entries are missing.
func TestAlignAssignsLogprobsToTheirTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Int32Range(0, 2), 1, 12).Draw(t, "ids")
		var given []entry
		for i, id := range ids {
			if rapid.Bool().Draw(t, "given") {
				given = append(given, entry{id, ptr(float32(-i))})
			}
		}
		got, err := align(ids, given)
		if len(given) == 0 && len(ids) > longestGap {
			return // refused
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range got {
			if !math.IsNaN(float64(l)) && l != float32(-i) {
				t.Fatalf("token %d of %v got %v of %v", i, ids, l, got)
			}
		}
		if len(given) == len(ids) {
			for i, l := range got {
				if l != float32(-i) {
					t.Fatalf("complete, but token %d got %v", i, l)
				}
			}
		}
	})
}
