package trainerbridge

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/rs/zerolog"
)

// Accepted log-probs are one per target, finite, and not positive beyond rounding.
func FuzzLossOutput(f *testing.F) {
	f.Add([]byte(`{"metrics": {"loss:sum": 1}, "loss_fn_outputs": [{"logprobs": {"data": [-1, 0]}}]}`))
	f.Add([]byte(`{"metrics": {"a": null}, "loss_fn_outputs": [{"logprobs": {"data": [null, 5]}}]}`))
	f.Add([]byte(`{"loss_fn_outputs": [{}, {}]}`))
	asked := []datum{newDatum(Row{Tokens: []int32{1, 2, 3}, Logprobs: make([]float32, 3), Advantages: make([]float32, 3)},
		"cross_entropy")}
	f.Fuzz(func(t *testing.T, text []byte) {
		var out lossOutput
		if json.Unmarshal(text, &out) != nil {
			return
		}
		for key, value := range out.Metrics.stats() {
			if math.IsInf(value, 0) {
				t.Fatalf("%s is infinite", key)
			}
		}
		all, err := out.logprobs(asked)
		if err != nil {
			return
		}
		if len(all) != 1 || len(all[0]) != 2 {
			t.Fatalf("%v", all)
		}
		for _, l := range all[0] {
			if math.IsNaN(float64(l)) || math.IsInf(float64(l), 0) || l > maxLogprob {
				t.Fatalf("log-prob %v is accepted", l)
			}
		}
	})
}

// What the trainer prints is logged, and none of it ends this process.
func FuzzOutputLines(f *testing.F) {
	f.Add(`{"event": "fatal", "error": "x", "hint": "y", "level": "panic"}`)
	f.Add(`{"event": "ready", "port": -1, "level": "FATAL", "time": {}, "message": 3}`)
	f.Add("plain text")
	f.Fuzz(func(t *testing.T, line string) {
		o := &output{log: zerolog.Nop()}
		o.line(line)
		if ready, err := new(Process).readReady(line); ready && err == nil && len(line) < len(`{"event":"ready"}`) {
			t.Fatalf("%q is the ready line", line)
		}
		if got := messages([]string{line}); len(got) != 1 {
			t.Fatalf("%q", got)
		}
	})
}
