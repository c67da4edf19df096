package trainertest

import (
	"fmt"
	"math"
)

type lossInput struct {
	Data []struct {
		ModelInput struct {
			Chunks []struct {
				Tokens []int32 `json:"tokens"`
			} `json:"chunks"`
		} `json:"model_input"`
		Inputs map[string]struct {
			Data []float64 `json:"data"`
		} `json:"loss_fn_inputs"`
	} `json:"data"`
	Name   string             `json:"loss_fn"`
	Config map[string]float64 `json:"loss_fn_config"`
}

// loss answers forward and forward_backward: the policy's log-probs, and
// metrics with the meaning that the real trainer gives them. The KL to the
// base is the squared difference of log-probs.
func (m *model) loss(in lossInput) (any, error) {
	metrics := map[string]float64{"loss:sum": 0, "tokens:sum": 0}
	outputs := make([]any, len(in.Data))
	for i, d := range in.Data {
		var tokens []int32
		for _, c := range d.ModelInput.Chunks {
			tokens = append(tokens, c.Tokens...)
		}
		targets := d.Inputs["target_tokens"].Data
		if len(tokens) == 0 || len(targets) != len(tokens) {
			return nil, fmt.Errorf("datum %d: %d tokens and %d targets", i, len(tokens), len(targets))
		}
		for name, t := range d.Inputs {
			if len(t.Data) != len(targets) {
				return nil, fmt.Errorf("datum %d: %s has %d elements for %d targets", i, name, len(t.Data), len(targets))
			}
		}
		tokens = append(tokens, int32(targets[len(targets)-1]))
		logprobs := m.opts.Logprobs(m.current(), tokens)
		outputs[i] = map[string]any{"logprobs": map[string]any{
			"data": logprobs, "dtype": "float32", "shape": []int{len(logprobs)},
		}}
		input := func(name string, t int) float64 {
			if values := d.Inputs[name].Data; values != nil {
				return values[t]
			}
			return 0
		}
		base := m.opts.Logprobs(0, tokens)
		for t, lp := range logprobs {
			score(metrics, in, float64(lp), float64(base[t]), func(name string) float64 { return input(name, t) })
		}
	}
	return map[string]any{"loss_fn_output_type": "logprobs", "loss_fn_outputs": outputs, "metrics": metrics}, nil
}

// score adds one token to the metrics.
func score(metrics map[string]float64, in lossInput, lp, base float64, input func(string) float64) {
	if in.Name == "cross_entropy" {
		metrics["loss:sum"] -= input("weights") * lp
		if input("weights") != 0 {
			metrics["tokens:sum"]++
		}
		return
	}
	if kl := input("kl"); kl != 0 {
		metrics["kl_base:sum"] += (lp - base) * (lp - base)
		metrics["kl_tokens:sum"]++
		metrics["loss:sum"] += kl * (lp - base) * (lp - base)
	}
	trained := input("weights") != 0 || (in.Name != "empo2" && input("advantages") != 0)
	if !trained {
		return
	}
	metrics["tokens:sum"]++
	metrics["approx_kl:sum"] += input("logprobs") - lp
	metrics["entropy:sum"] -= lp
	if floor, ok := in.Config["logprob_floor"]; ok && lp < floor {
		metrics["masked:sum"]++
		return
	}
	r, a := math.Exp(lp-input("logprobs")), input("advantages")
	low, high := in.Config["clip_low_threshold"], in.Config["clip_high_threshold"]
	gain := r * a
	if high > 0 && min(max(r, low), high)*a < gain {
		gain = min(max(r, low), high) * a
		metrics["clipped:sum"]++
	}
	metrics["loss:sum"] -= gain
	metrics["ratio:sum"] += r
	metrics["ratio_max:max"] = max(metrics["ratio_max:max"], r)
}
