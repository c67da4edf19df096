package trainerbridge

import (
	"encoding/json"
	"fmt"
)

// The types in this file mirror the JSON of the protocol. The tests of both
// sides read the same file, trainer/testdata/wire_golden.json.

// datum is a row on the wire: inputs are tokens[:-1], targets tokens[1:].
type datum struct {
	ModelInput   modelInput        `json:"model_input"`
	LossFnInputs map[string]tensor `json:"loss_fn_inputs"`
}

type modelInput struct {
	Chunks []chunk `json:"chunks"`
}

type chunk struct {
	Type   string  `json:"type"` // encoded_text
	Tokens []int32 `json:"tokens"`
}

// tensor is a flat array; Data is []int32 (dtype int64) or []float32.
type tensor struct {
	Data  any    `json:"data"`
	Dtype string `json:"dtype"`
	Shape []int  `json:"shape"`
}

type lossInput struct {
	Data []datum `json:"data"`
	Loss
}

type forwardRequest struct {
	ModelID string    `json:"model_id"`
	SeqID   int64     `json:"seq_id"`
	Input   lossInput `json:"forward_input"`
}

type forwardBackwardRequest struct {
	ModelID string    `json:"model_id"`
	SeqID   int64     `json:"seq_id"`
	Input   lossInput `json:"forward_backward_input"`
}

type optimStepRequest struct {
	ModelID string `json:"model_id"`
	SeqID   int64  `json:"seq_id"`
	Adam    Adam   `json:"adam_params"`
	Type    string `json:"type"`
}

// saveRequest is the request of save_weights and save_weights_for_sampler. It
// overwrites older content. A name is used again only if a step was not
// committed and is repeated, so the newer content is correct.
type saveRequest struct {
	ModelID   string `json:"model_id"`
	SeqID     int64  `json:"seq_id"`
	Path      string `json:"path"`
	Overwrite bool   `json:"overwrite"`
	Type      string `json:"type"`
}

type loadRequest struct {
	ModelID   string `json:"model_id"`
	SeqID     int64  `json:"seq_id"`
	Path      string `json:"path"`
	Optimizer bool   `json:"optimizer"`
	Type      string `json:"type"`
}

type sessionRequest struct {
	Tags         []string          `json:"tags"`
	UserMetadata map[string]string `json:"user_metadata"`
	SDKVersion   string            `json:"sdk_version"`
	Type         string            `json:"type"`
}

type modelRequest struct {
	SessionID  string     `json:"session_id"`
	ModelSeqID int        `json:"model_seq_id"`
	BaseModel  string     `json:"base_model"`
	Lora       loraConfig `json:"lora_config"`
	Type       string     `json:"type"`
}

type loraConfig struct {
	Rank         int     `json:"rank"`
	Alpha        float64 `json:"alpha"`
	Seed         int64   `json:"seed"`
	TrainUnembed bool    `json:"train_unembed"`
	TrainMLP     bool    `json:"train_mlp"`
	TrainAttn    bool    `json:"train_attn"`
	// TargetModules extends the protocol; other trainers ignore it.
	TargetModules []string `json:"target_modules,omitempty"`
}

// createdModel is the result of create_model. Only this project's own trainer
// sends the modules.
type createdModel struct {
	ModelID string            `json:"model_id"`
	Adapted []string          `json:"target_modules"`
	Skipped map[string]string `json:"skipped_modules"`
	// Lora has the alpha that the trainer uses. Only SkyRL sends it.
	Lora struct {
		Alpha float64 `json:"alpha"`
	} `json:"lora_config"`
}

// submitted acknowledges a request. The result comes later, by its id.
type submitted struct {
	RequestID string `json:"request_id"`
}

// future is an answer of retrieve_future that is no result: an error, or a
// request to ask again.
type future struct {
	Type string `json:"type"` // try_again
	// Rows extends the protocol: the rows that the running pass has done, and all of them.
	Rows     json.RawMessage `json:"rows"`
	Error    *string         `json:"error"`
	Category Category        `json:"category"`
	// Detail and Message are errors of other programs.
	Detail  json.RawMessage `json:"detail"`
	Message json.RawMessage `json:"message"`
	// OutOfMemory extends the protocol; other trainers do not send it.
	OutOfMemory *OutOfMemory `json:"out_of_memory"`
}

// optimStepResult is the result of an optimizer step.
type optimStepResult struct {
	Metrics metrics `json:"metrics"`
}

// read decodes a result. Without the norm nobody would notice a gradient that is not
// finite, so that it must be there if d says so.
func (o *optimStepResult) read(raw json.RawMessage, d Deviations) error {
	if err := json.Unmarshal(raw, o); err != nil {
		return err
	}
	norm, known := o.Metrics[d.normKey()]
	if known {
		o.Metrics[gradNorm] = norm
	} else if !d.NoNorm {
		return fmt.Errorf("no %s among the metrics", d.normKey())
	}
	return nil
}

// metrics of a result. NaN is null in JSON.
type metrics map[string]*float64

type lossOutput struct {
	Metrics metrics `json:"metrics"`
	Outputs []struct {
		Logprobs struct {
			Data []*float32 `json:"data"`
		} `json:"logprobs"`
	} `json:"loss_fn_outputs"`
}

type pathOutput struct {
	Path string `json:"path"`
	Dir  string `json:"dir"`
}

// newDatum shifts a row by one token and adds the arrays that the loss reads.
// Only the loss empo2 has a loss mask. The protocol's other losses mask tokens
// by advantage 0, and the importance weights are multiplied into the advantages.
// The loss cross_entropy has weights instead.
func newDatum(r Row, loss string) datum {
	targets := r.Tokens[1:]
	in := map[string]tensor{"target_tokens": {Data: targets, Dtype: "int64", Shape: []int{len(targets)}}}
	floats := func(name string, values []float32) {
		if values != nil {
			in[name] = tensor{Data: values[1:], Dtype: "float32", Shape: []int{len(values) - 1}}
		}
	}
	switch loss {
	case "cross_entropy":
		floats("weights", r.effectiveWeights())
	case "empo2":
		in["loss_mask"] = binary(len(targets), func(i int) bool { return r.Trains(i + 1) })
		floats("importance_weights", r.ImportanceWeights)
		floats("logprobs", r.Logprobs)
		floats("advantages", r.Advantages)
		floats("kl", r.KL)
		floats("entropy", r.Entropy)
		if r.FloorExempt {
			in["floor_mask"] = binary(len(targets), func(int) bool { return false })
		}
	default:
		floats("logprobs", r.Logprobs)
		floats("advantages", r.weightedAdvantages())
	}
	text := chunk{Type: "encoded_text", Tokens: r.Tokens[:len(r.Tokens)-1]}
	return datum{ModelInput: modelInput{Chunks: []chunk{text}}, LossFnInputs: in}
}

// effectiveWeights is the loss mask times the importance weights.
func (r Row) effectiveWeights() []float32 {
	out := make([]float32, len(r.Tokens))
	for i := range out {
		if r.Trains(i) {
			out[i] = r.weight(i)
		}
	}
	return out
}

func (r Row) weightedAdvantages() []float32 {
	if r.ImportanceWeights == nil {
		return r.Advantages
	}
	out := make([]float32, len(r.Tokens))
	for i, a := range r.Advantages {
		out[i] = a * r.ImportanceWeights[i]
	}
	return out
}

func binary(n int, set func(i int) bool) tensor {
	values := make([]int32, n)
	for i := range values {
		if set(i) {
			values[i] = 1
		}
	}
	return tensor{Data: values, Dtype: "int64", Shape: []int{n}}
}

// Limits of one request: the number of datums, and of bytes. JSON needs at most
// 10 bytes per token and per tensor element for typical values.
const (
	maxDatums       = 1024
	maxBytes        = 5_000_000
	bytesPerElement = 10
)

// split distributes the datums over requests within the limits, in order. A
// datum that exceeds the limit gets a request of its own.
func split(data []datum) [][]datum {
	var parts [][]datum
	start, size := 0, 0
	for i, d := range data {
		n := d.size()
		if i > start && (i-start == maxDatums || size+n > maxBytes) {
			parts = append(parts, data[start:i])
			start, size = i, 0
		}
		size += n
	}
	return append(parts, data[start:])
}

func (d datum) size() int {
	n := len(d.ModelInput.Chunks[0].Tokens)
	for _, t := range d.LossFnInputs {
		n += t.Shape[0]
	}
	return n * bytesPerElement
}
