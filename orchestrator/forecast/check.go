package forecast

// Outcome is what a run needed, as means over its steps.
type Outcome struct {
	Steps   int
	Sample  float64 // seconds of a step
	Train   float64
	Publish float64
	Step    float64
	Tokens  float64 // of a step's rows
	// Gradient is the share of groups that were trained.
	Gradient      float64
	TrainerMemory int64 // the largest peak in bytes; 0: unknown
	ServerMemory  int64 // the same
	Disk          int64 // bytes of the run's folder
}

// Comparison is one predicted value beside what the run needed.
type Comparison struct {
	What      string  `json:"what"`
	Unit      string  `json:"unit"` // s, tokens or bytes
	Predicted float64 `json:"predicted"`
	Took      float64 `json:"took"`
	Error     float64 `json:"error"` // predicted / took - 1
}

// Check compares a prediction with what a run needed. Time and tokens of training
// are predicted for the groups that had a gradient. Values that are unknown on
// either side are left out.
func (f Forecast) Check(o Outcome) []Comparison {
	var out []Comparison
	add := func(what, unit string, predicted, took float64) {
		if predicted > 0 && took > 0 {
			out = append(out, Comparison{what, unit, predicted, took, predicted/took - 1})
		}
	}
	train, publish := f.Time.Train*o.Gradient, f.Time.Publish
	if o.Gradient == 0 { // no step trained anything
		publish = 0
	}
	if f.Time.Step > 0 {
		add("step", "s", f.Time.step(train+publish), o.Step)
		add("sample", "s", f.Time.Sample, o.Sample)
		add("train", "s", train, o.Train)
		add("publish", "s", publish, o.Publish)
	}
	if f.Measured != nil {
		add("row tokens of a step", "tokens", f.StepTokens*o.Gradient, o.Tokens)
	}
	add("trainer memory", "bytes", float64(f.Trainer.Total()), float64(o.TrainerMemory))
	add("server memory", "bytes", float64(f.Server.Total()), float64(o.ServerMemory))
	if o.Steps > 0 { // the prediction is for all steps of the configuration
		versions := f.Disk.Total - int64(f.Steps)*f.Disk.Episodes
		add("run folder", "bytes", float64(versions+int64(o.Steps)*f.Disk.Episodes), float64(o.Disk))
	}
	return out
}
