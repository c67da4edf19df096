package rollout

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/empo2/empo2/sampler"
)

func packedRow(tokens []int32, mask []bool, logprobs []float32) Row {
	return Row{Tokens: tokens, LossMask: mask, Logprobs: logprobs}
}

func TestPackedTrajectoriesAreEqual(t *testing.T) {
	nan := float32(math.NaN())
	f := func(name string, want Trajectory) Packed {
		t.Helper()
		p, err := Pack(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unpack(p)
		if diff := cmp.Diff(want, got, cmpopts.EquateNaNs()); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
		return p
	}
	f("without turns", Trajectory{})
	f("messages only", Trajectory{Turns: []Turn{{Action: "go"}}, TipIDs: []int32{}})
	turns := []Turn{{IDs: []int32{300, 1 << 20}, Logprobs: sampler.Logprobs{-1, nan}},
		{IDs: []int32{4}, Logprobs: sampler.Logprobs{-0.25}}}
	plain := packedRow([]int32{9, 300, 1 << 20, 8, 4}, []bool{false, true, false, false, true},
		[]float32{0, -1, 0, 0, -0.25})
	tips := packedRow([]int32{7, 9, 300, 1 << 20, 8, 4}, []bool{false, false, true, false, false, true},
		[]float32{0, 0, -1, 0, 0, -0.25})
	same := f("equal rows", Trajectory{Turns: turns, RowsWithTips: []Row{plain}, RowsWithoutTips: []Row{plain},
		Tip: "a tip", TipIDs: []int32{1, 2}, TipLogprobs: sampler.Logprobs{-1, -2}, TipCut: true})
	if want := 4 * 5; len(same.Logprobs) != want {
		t.Errorf("%d bytes of log-probs, want %d: those of rows are stored again", len(same.Logprobs), want)
	}
	f("rows that differ", Trajectory{Turns: turns, RowsWithTips: []Row{tips}, RowsWithoutTips: []Row{plain}})
	other := packedRow([]int32{1, 2}, []bool{true, true}, []float32{-3, -4})
	f("log-probs that no turn has",
		Trajectory{Turns: turns, RowsWithTips: []Row{other, tips}, RowsWithoutTips: []Row{other}})
	f("without log-probs", Trajectory{Turns: turns, RowsWithTips: []Row{{Tokens: []int32{1}, LossMask: []bool{true},
		Logprobs: []float32{0}, WithoutLogprobs: true}}})
}

// Damaged numbers are an error, and need no more memory than their length allows.
func TestDamagedNumbersAreAnError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packed{JSON: []byte(`{"turns":[{}]}`),
			Tokens:   append([]byte{packVersion}, rapid.SliceOf(rapid.Byte()).Draw(t, "tokens")...),
			Logprobs: rapid.SliceOf(rapid.Byte()).Draw(t, "logprobs")}
		_, _ = Unpack(p)
	})
	whole, err := Pack(Trajectory{Turns: []Turn{{IDs: []int32{1, 2}, Logprobs: sampler.Logprobs{-1, -2}}}})
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n < len(whole.Tokens); n++ {
		if _, err := Unpack(Packed{JSON: whole.JSON, Tokens: whole.Tokens[:n], Logprobs: whole.Logprobs}); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(whole.Tokens))
		}
	}
}
