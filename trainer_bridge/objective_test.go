package trainerbridge

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"strings"
	"testing"
)

// asEmpo2 is a loss of the protocol as a special case of the loss empo2.
func asEmpo2(name string, config map[string]float64) Loss {
	if name == "cross_entropy" || name == "empo2" {
		return Loss{Name: name, Config: config}
	}
	all := map[string]float64{"dual_clip": 0, "logprob_floor": -1e30, "clip_low_threshold": 0, "clip_high_threshold": 1e30}
	maps.Copy(all, config)
	return Loss{Name: "empo2", Config: all}
}

// The trainer's tests read the same cases.
func TestObjectiveHasTheGradientsOfTheTrainer(t *testing.T) {
	text, err := os.ReadFile("trainer/testdata/loss_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Loss       string             `json:"loss_fn"`
		Config     map[string]float64 `json:"config"`
		LogP       []float64          `json:"logp"`
		Weights    []float64          `json:"weights"`
		Logprobs   []float64          `json:"logprobs"`
		Advantages []float64          `json:"advantages"`
		Sum        float64            `json:"loss_sum"`
		Gradient   []float64          `json:"d_logp"`
	}
	if err := json.Unmarshal(text, &cases); err != nil {
		t.Fatal(err)
	}
	surrogate := map[float64]int{}
	for _, c := range cases {
		o, err := newObjective(asEmpo2(c.Loss, c.Config))
		if err != nil {
			t.Fatal(err)
		}
		surrogate[c.Config["surrogate"]]++
		n := len(c.LogP) + 1
		r := Row{Tokens: make([]int32, n), LossMask: make([]bool, n), ImportanceWeights: make([]float32, n),
			Logprobs: make([]float32, n), Advantages: make([]float32, n)}
		present := make([]float32, n-1)
		for i := range c.LogP {
			weight := 1.0
			if c.Weights != nil {
				weight = c.Weights[i]
			}
			r.LossMask[i+1], r.ImportanceWeights[i+1] = weight != 0, float32(weight)
			present[i] = float32(c.LogP[i])
			if c.Logprobs != nil {
				r.Logprobs[i+1], r.Advantages[i+1] = float32(c.Logprobs[i]), float32(c.Advantages[i])
			}
		}
		metrics := Stats{}
		got, err := o.express(r, present, nil, metrics)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range c.Gradient {
			if d := math.Abs(float64(-got.Advantages[i+1]) - want); d > 1e-5*max(1, math.Abs(want)) {
				t.Errorf("%s %v: dL/dlogp of token %d is %v, the trainer's is %v", c.Loss, c.Config, i, -got.Advantages[i+1], want)
			}
		}
		if d := math.Abs(metrics.Loss() - c.Sum); d > 1e-5*max(1, math.Abs(c.Sum)) {
			t.Errorf("%s %v: the loss is %v, the trainer's is %v", c.Loss, c.Config, metrics.Loss(), c.Sum)
		}
	}
	if len(surrogate) != surrogates {
		t.Errorf("the cases have the surrogates %v; want all %d", surrogate, surrogates)
	}
}

// A number of a newer configuration must not be trained as another loss.
func TestUnknownObjectivesAreRefused(t *testing.T) {
	f := func(key string, number float64, want string) {
		t.Helper()
		_, err := newObjective(Loss{Name: "empo2", Config: map[string]float64{key: number}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s = %v: %v; want %q", key, number, err, want)
		}
	}
	f("surrogate", surrogates, "the surrogate 5 cannot be expressed")
	f("surrogate", -1, "the surrogate -1 cannot be expressed")
	f("surrogate", 0.5, "the surrogate 0.5 cannot be expressed")
	f("kl_estimator", 2, "the KL estimator 2 cannot be expressed")
}
