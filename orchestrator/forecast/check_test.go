package forecast

import (
	"math"
	"testing"
)

func TestCheckComparesWithTheRun(t *testing.T) {
	f := Forecast{
		StepTokens: 8000, Steps: 100, Time: Time{Sample: 10, Train: 8, Publish: 2, Step: 20},
		Trainer: Trainer{Program: 1e9, Weights: 1e9}, Disk: Disk{Episodes: 1000, Total: 150_000},
		Measured: &Calibration{},
	}
	o := Outcome{Steps: 10, Sample: 12.5, Train: 5, Publish: 2, Step: 20, Tokens: 5000, Gradient: 0.5,
		TrainerMemory: 1.6e9, Disk: 60_000}
	want := map[string]Comparison{
		"step":                 {"step", "s", 16, 20, -0.2},
		"sample":               {"sample", "s", 10, 12.5, -0.2},
		"train":                {"train", "s", 4, 5, -0.2},
		"publish":              {"publish", "s", 2, 2, 0},
		"row tokens of a step": {"row tokens of a step", "tokens", 4000, 5000, -0.2},
		"trainer memory":       {"trainer memory", "bytes", 2e9, 1.6e9, 0.25},
		"run folder":           {"run folder", "bytes", 60_000, 60_000, 0}, // 10 of 100 steps
	}
	got := f.Check(o)
	if len(got) != len(want) {
		t.Errorf("%d values: %+v", len(got), got) // the server's memory is unknown
	}
	for _, c := range got {
		w := want[c.What]
		if math.Abs(c.Error-w.Error) > 1e-9 || c.Predicted != w.Predicted || c.Took != w.Took || c.Unit != w.Unit {
			t.Errorf("%+v, want %+v", c, w)
		}
	}
	arithmetic := Forecast{Trainer: f.Trainer}
	if got := arithmetic.Check(o); len(got) != 1 || got[0].What != "trainer memory" {
		t.Errorf("without a calibration: %+v", got)
	}
	o.Gradient = 0
	for _, c := range f.Check(o) {
		if c.What == "publish" || c.What == "train" {
			t.Errorf("nothing was trained: %+v", c)
		}
	}
}
