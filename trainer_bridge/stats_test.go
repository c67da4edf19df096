package trainerbridge

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestMergeStats(t *testing.T) {
	parts := []Stats{
		{"loss:sum": 1, "low:min": 3, "ratio_max:max": -2, "lr:mean": 1, "odd:median": 1, "bare": 1},
		{"loss:sum": 2, "low:min": 4, "ratio_max:max": -1, "lr:mean": 4, "late:min": 7},
	}
	want := Stats{"loss:sum": 3, "low:min": 3, "ratio_max:max": -1, "lr:mean": 3, "late:min": 7}
	if diff := cmp.Diff(want, MergeStats(parts, []float64{1, 2})); diff != "" {
		t.Errorf("weighted (-want +got):\n%s", diff)
	}
	if got := MergeStats(parts, nil)["lr:mean"]; got != 2.5 {
		t.Errorf("mean without weights: %v", got)
	}
	if got := MergeStats(nil, nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// A rate of several requests is that of their whole time.
func TestMergeStatsWeightsRatesByTime(t *testing.T) {
	parts := []Stats{{"mfu:mean": 0.4, "seconds:sum": 3, "lr:mean": 1}, {"mfu:mean": 0.2, "seconds:sum": 1, "lr:mean": 4}}
	got := MergeStats(parts, []float64{1, 2})
	if math.Abs(got.MFU()-0.35) > 1e-12 || got["lr:mean"] != 3 {
		t.Errorf("%v", got)
	}
	delete(parts[1], "seconds:sum")
	if got := MergeStats(parts, []float64{1, 3}); math.Abs(got.MFU()-0.25) > 1e-12 {
		t.Errorf("without times: %v", got)
	}
}

func TestMergeStatsShowsNaN(t *testing.T) {
	for _, key := range []string{"a:sum", "a:mean", "a:min", "a:max"} {
		got := MergeStats([]Stats{{key: 1}, {key: math.NaN()}, {key: 2}}, nil)[key]
		if !math.IsNaN(got) {
			t.Errorf("%s: %v", key, got)
		}
	}
}

func TestMetricsOffTheWire(t *testing.T) {
	var out lossOutput
	if err := json.Unmarshal([]byte(`{"metrics": {"loss:sum": 2.5, "ratio:sum": null}}`), &out); err != nil {
		t.Fatal(err)
	}
	s := out.Metrics.stats()
	if s.Loss() != 2.5 || !math.IsNaN(s["ratio:sum"]) || s.MeanRatio() != 0 {
		t.Errorf("%v", s)
	}
}

func TestAccessors(t *testing.T) {
	s := Stats{
		"tokens:sum": 10, "masked:sum": 2, "clipped:sum": 1, "ratio:sum": 16, "ratio_max:max": 5,
		"kl_base:sum": 3, "kl_tokens:sum": 6, "approx_kl:sum": 1, "entropy:sum": 20,
	}
	got := []float64{s.Tokens(), s.MaskedShare(), s.ClippedShare(), s.MeanRatio(), s.MaxRatio(), s.KLBase(),
		s.ApproxKL(), s.Entropy()}
	if diff := cmp.Diff([]float64{10, 0.2, 0.1, 2, 5, 0.5, 0.1, 2}, got); diff != "" {
		t.Error(diff)
	}
}

func TestUsage(t *testing.T) {
	s := Stats{
		"row_tokens:sum": 900, "padding_tokens:sum": 100, "seconds:sum": 3, "peak_memory_bytes:max": 5e9, "mfu:mean": 0.4,
		"micro_batches:sum": 7, "checkpointed_micro_batches:sum": 2, "micro_batch_tokens:min": 512, "oom_retries:sum": 1,
	}
	got := []any{s.RowTokens(), s.TokensPerSecond(), s.PaddingShare(), s.PeakMemory(), s.MFU(), s.MicroBatches(),
		s.Checkpointed(), s.MicroBatchTokens(), s.OutOfMemory()}
	if diff := cmp.Diff([]any{900.0, 300.0, 0.1, int64(5e9), 0.4, 7, 2, 512, 1}, got); diff != "" {
		t.Error(diff)
	}
	none := Stats{}
	if none.TokensPerSecond() != 0 || none.PaddingShare() != 0 || none.PeakMemory() != 0 || none.OutOfMemory() != 0 {
		t.Error("a trainer that reports nothing has a usage")
	}
}

func TestSplitKeepsOrderAndLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 3), rapid.IntRange(1, 120_000)), 1,
			3000).Draw(t, "lengths")
		data := make([]datum, len(lengths))
		all := make([]int32, 120_000)
		for i, n := range lengths {
			data[i] = datum{
				ModelInput:   modelInput{Chunks: []chunk{{Tokens: all[:n]}}},
				LossFnInputs: map[string]tensor{"n": {Shape: []int{n}}},
			}
		}
		i := 0
		for _, part := range split(data) {
			size := 0
			for _, d := range part {
				if d.LossFnInputs["n"].Shape[0] != lengths[i] {
					t.Fatalf("datum %d is out of order", i)
				}
				size += d.size()
				i++
			}
			if len(part) == 0 || len(part) > maxDatums || (len(part) > 1 && size > maxBytes) {
				t.Fatalf("a part of %d datums and %d bytes", len(part), size)
			}
		}
		if i != len(data) {
			t.Fatalf("%d of %d datums", i, len(data))
		}
	})
}
