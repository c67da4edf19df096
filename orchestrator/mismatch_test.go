package orchestrator

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/empo2/empo2/sampler/rollout"
)

func TestMismatchOfTrainedTokens(t *testing.T) {
	rows := []rollout.Row{
		{Tokens: []int32{1, 2, 3}, LossMask: []bool{false, true, false}, Logprobs: []float32{0, -1, 0}},
		{Tokens: []int32{1, 2}, LossMask: []bool{false, true}, Logprobs: []float32{0, -2}},
	}
	got, err := compareLogprobs(rows, [][]float32{{-1.5, -9}, {-1}})
	if err != nil {
		t.Fatal(err)
	}
	a, b := math.Exp(-0.5), math.Exp(1)
	want := Mismatch{
		Tokens: 2, Mean: 0.75, Max: 1,
		KL:  (a - 1 + 0.5 + b - 1 - 1) / 2,
		ESS: (a + b) * (a + b) / (2 * (a*a + b*b)),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-12)); diff != "" {
		t.Error(diff)
	}
}

func TestNoMismatch(t *testing.T) {
	row := rollout.Row{Tokens: []int32{1, 2}, LossMask: []bool{false, true}, Logprobs: []float32{0, -2}}
	got, err := compareLogprobs([]rollout.Row{row}, [][]float32{{-2}})
	if err != nil || got != (Mismatch{Tokens: 1, ESS: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := compareLogprobs(nil, nil); err != nil || got != (Mismatch{}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := compareLogprobs([]rollout.Row{row}, nil); err == nil {
		t.Error("a missing row was accepted")
	}
	if _, err := compareLogprobs([]rollout.Row{row}, [][]float32{{-2, -3}}); err == nil {
		t.Error("a row of another length was accepted")
	}
}
