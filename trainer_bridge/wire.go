package trainerbridge

// Wire types: what the protocol's JSON looks like. One golden file,
// trainer/testdata/wire_golden.json, is read by the tests of both sides.

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

// saveRequest is save_weights and save_weights_for_sampler. Names are only
// written again when a step is repeated that was never committed, so the
// newer content is the right one.
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
}

// submitted acknowledges a request whose result is still to come.
type submitted struct {
	RequestID string `json:"request_id"`
}

// future is every answer of retrieve_future: a result, an error, or a request
// to ask again.
type future struct {
	Type     string   `json:"type"` // try_again
	Error    *string  `json:"error"`
	Category Category `json:"category"`
}

// metrics of a result; NaN is null in JSON.
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

// newDatum shifts a row and picks the arrays that the loss reads. Losses of
// the protocol mask by advantage 0; ours also has weights and KL coefficients.
func newDatum(r Row, loss string) datum {
	targets := r.Tokens[1:]
	in := map[string]tensor{"target_tokens": {Data: targets, Dtype: "int64", Shape: []int{len(targets)}}}
	floats := func(name string, values []float32) {
		in[name] = tensor{Data: values[1:], Dtype: "float32", Shape: []int{len(values) - 1}}
	}
	if loss == "cross_entropy" || loss == "empo2" {
		floats("weights", r.Weights)
	}
	if loss != "cross_entropy" {
		floats("logprobs", r.Logprobs)
		floats("advantages", r.Advantages)
	}
	if loss == "empo2" && r.KL != nil {
		floats("kl", r.KL)
	}
	text := chunk{Type: "encoded_text", Tokens: r.Tokens[:len(r.Tokens)-1]}
	return datum{ModelInput: modelInput{Chunks: []chunk{text}}, LossFnInputs: in}
}

// Limits of one request: datums, and bytes at 10 per token and per tensor
// element, which is what JSON takes at most for values as they occur.
const (
	maxDatums       = 1024
	maxBytes        = 5_000_000
	bytesPerElement = 10
)

// split cuts the datums into requests within the limits, in order. A datum
// that is too large by itself is a request of its own.
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
