// Package trainerbridge drives a trainer over Tinker's REST protocol and
// supervises the local one.
//
// The [Client] knows the protocol, the [Process] knows how to start, watch
// and stop the Python trainer that comes with the project. Nothing else in Go
// knows which trainer answers.
package trainerbridge

// Row is one training sequence: a whole trajectory whose prompts only grow.
// All slices have the length of Tokens and speak of the token at the same
// index; the first token is never trained, as nothing predicts it.
type Row struct {
	Tokens []int32 `json:"tokens"`
	// Weights is the loss mask: 1 for tokens that the policy wrote and that
	// are trained, else 0.
	Weights []float32 `json:"weights"`
	// Logprobs are the behaviour policy's log-probs in nats; 0 where Weights
	// is 0.
	Logprobs []float32 `json:"logprobs"`
	// Advantages carry every normalisation (losses are sums); 0 where Weights
	// is 0.
	Advantages []float32 `json:"advantages"`
	// KL is the coefficient of KL(π_θ‖π_base) at each token, normalisation
	// included; nil means none. Only the loss empo2 reads it.
	KL []float32 `json:"kl,omitempty"`
}

// Loss names a loss function of the trainer and its configuration.
type Loss struct {
	Name   string             `json:"loss_fn"` // cross_entropy, importance_sampling, ppo, empo2
	Config map[string]float64 `json:"loss_fn_config,omitempty"`
}

// Adam configures one optimizer step (decoupled weight decay).
type Adam struct {
	LearningRate float64 `json:"learning_rate"`
	Beta1        float64 `json:"beta1"`
	Beta2        float64 `json:"beta2"`
	Eps          float64 `json:"eps"`
	WeightDecay  float64 `json:"weight_decay"`
	GradClipNorm float64 `json:"grad_clip_norm"` // 0 is off
}
