package rollout_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/empo2/empo2/sampler"
	"github.com/empo2/empo2/sampler/rollout"
)

// A stored episode is read, or refused. What is read is stored again without a change.
func FuzzUnpack(f *testing.F) {
	row := rollout.Row{Tokens: []int32{1, 2, 3}, LossMask: []bool{false, true, true}, Logprobs: []float32{0, -1, -2}}
	for _, t := range []rollout.Trajectory{
		{},
		{Turns: []rollout.Turn{{IDs: []int32{2, 3}, Logprobs: sampler.Logprobs{-1, -2}}}, TipIDs: []int32{},
			RowsWithTips: []rollout.Row{row}, RowsWithoutTips: []rollout.Row{row}},
	} {
		p, err := rollout.Pack(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.JSON, p.Tokens, p.Logprobs)
	}
	f.Add([]byte(`{"turns": [{}]}`), []byte{1, 255, 255, 255, 255, 255, 255, 255, 255, 255}, []byte{})
	f.Fuzz(func(t *testing.T, text, tokens, logprobs []byte) {
		first, err := rollout.Unpack(rollout.Packed{JSON: text, Tokens: tokens, Logprobs: logprobs})
		if err != nil || len(tokens) == 0 {
			return
		}
		p, err := rollout.Pack(first)
		if err != nil {
			return // for example rows of another length than their masks
		}
		second, err := rollout.Unpack(p)
		if diff := cmp.Diff(first, second, cmpopts.EquateNaNs()); err != nil || diff != "" {
			t.Fatalf("%v %s", err, diff)
		}
	})
}
