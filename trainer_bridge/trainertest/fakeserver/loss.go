package fakeserver

import (
	"fmt"
	"math"
)

type lossInput struct {
	Data   []datum            `json:"data"`
	Name   string             `json:"loss_fn"`
	Config map[string]float64 `json:"loss_fn_config"`
}

type datum struct {
	ModelInput struct {
		Chunks []struct {
			Tokens []int32 `json:"tokens"`
		} `json:"chunks"`
	} `json:"model_input"`
	Inputs map[string]struct {
		Data []float64 `json:"data"`
	} `json:"loss_fn_inputs"`
}

// loss answers forward and forward_backward with the policy's log-probs and the
// same metrics as the real trainer. In place of the KL to the base model it uses
// the squared difference of log-probs, in place of the entropy the negative
// log-prob.
func (m *model) loss(in lossInput) (any, error) {
	metrics := map[string]float64{"loss:sum": 0, "tokens:sum": 0}
	outputs := make([]any, len(in.Data))
	for i, d := range in.Data {
		tokens, err := d.tokens()
		if err != nil {
			return nil, fmt.Errorf("datum %d: %w", i, err)
		}
		logprobs, base := m.opts.Logprobs(m.current(), tokens), m.opts.Logprobs(0, tokens)
		outputs[i] = map[string]any{"logprobs": map[string]any{
			"data": logprobs, "dtype": "float32", "shape": []int{len(logprobs)},
		}}
		for t, lp := range logprobs {
			in.score(metrics, d.position(t), float64(lp), float64(base[t]))
		}
	}
	return map[string]any{"loss_fn_output_type": "logprobs", "loss_fn_outputs": outputs, "metrics": metrics}, nil
}

// tokens returns the input tokens and the last target.
func (d datum) tokens() ([]int32, error) {
	var tokens []int32
	for _, c := range d.ModelInput.Chunks {
		tokens = append(tokens, c.Tokens...)
	}
	targets := d.Inputs["target_tokens"].Data
	if len(tokens) == 0 || len(targets) != len(tokens) {
		return nil, fmt.Errorf("%d tokens and %d targets", len(tokens), len(targets))
	}
	for name, t := range d.Inputs {
		if len(t.Data) != len(targets) {
			return nil, fmt.Errorf("%s has %d elements for %d targets", name, len(t.Data), len(targets))
		}
	}
	return append(tokens, int32(targets[len(targets)-1])), nil
}

// position is one value of each array of a datum.
type position struct {
	trained, floor                                 bool
	weight, logprob, advantage, kl, entropy, cross float64
}

func (d datum) position(t int) position {
	value := func(name string, otherwise float64) float64 {
		if values := d.Inputs[name].Data; values != nil {
			return values[t]
		}
		return otherwise
	}
	p := position{
		weight: value("importance_weights", 1), logprob: value("logprobs", 0), advantage: value("advantages", 0),
		kl: value("kl", 0), entropy: value("entropy", 0), cross: value("weights", 0),
	}
	p.trained, p.floor = value("loss_mask", p.advantage) != 0, value("floor_mask", 1) != 0
	return p
}

// score adds one token to the metrics.
func (in lossInput) score(metrics map[string]float64, p position, lp, base float64) {
	if in.Name == "cross_entropy" {
		metrics["loss:sum"] -= p.cross * lp
		if p.cross != 0 {
			metrics["tokens:sum"]++
		}
		return
	}
	if p.kl != 0 {
		metrics["kl_base:sum"] += (lp - base) * (lp - base)
		metrics["kl_tokens:sum"]++
		metrics["loss:sum"] += p.kl * (lp - base) * (lp - base)
	}
	metrics["loss:sum"] += p.entropy * lp
	if !p.trained {
		return
	}
	metrics["tokens:sum"]++
	metrics["approx_kl:sum"] += p.logprob - lp
	metrics["entropy:sum"] -= lp
	if floor, ok := in.Config["logprob_floor"]; ok && p.floor && lp < floor {
		metrics["masked:sum"]++
		return
	}
	r, a := math.Exp(lp-p.logprob), p.advantage
	low, high := in.Config["clip_low_threshold"], in.Config["clip_high_threshold"]
	gain := r * a
	if high > 0 && min(max(r, low), high)*a < gain {
		gain = min(max(r, low), high) * a
		metrics["clipped:sum"]++
	}
	metrics["loss:sum"] -= p.weight * gain
	metrics["ratio:sum"] += r
	metrics["ratio_max:max"] = max(metrics["ratio_max:max"], r)
}
