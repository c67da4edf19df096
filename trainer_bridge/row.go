// Package trainerbridge drives a trainer over Tinker's REST protocol. Start with
// [Row], the data that is trained on, and [Local], which most callers use.
//   - [Local] trains one adapter with its own trainer process and restarts it.
//   - [Client] speaks the protocol.
//   - [Process] starts and stops the Python trainer that comes with the project.
//   - [Codec] is the tokenizer of the trainer's model.
//
// The rest of the Go code does not know which trainer is in use.
package trainerbridge

// Row is one training sequence: a whole trajectory whose prompts only grow.
// All slices have the length of Tokens. Index i refers to token i. The first
// token is never trained, since nothing predicts it.
type Row struct {
	Tokens []int32
	// LossMask marks the tokens that are trained: tokens that the policy wrote.
	// Nil marks the tokens whose advantage is not 0.
	LossMask []bool
	// ImportanceWeights multiply the policy loss of each trained token. They
	// are not negative. Nil means 1 everywhere. Values at other tokens have no
	// effect.
	ImportanceWeights []float32
	// Logprobs are the behaviour policy's log-probs in nats; 0 at tokens that
	// are not trained.
	Logprobs []float32
	// Advantages include every normalisation, since losses are sums; 0 at
	// tokens that are not trained.
	Advantages []float32
	// KL is the coefficient of KL(π_θ‖π_base) at each token, normalisation
	// included. Nil means 0. Only the loss empo2 reads it.
	KL []float32
	// Entropy is the coefficient of the entropy bonus at each token,
	// normalisation included: the loss falls by Entropy·H(π_θ). Nil means 0.
	// Only the loss empo2 reads it.
	Entropy []float32
	// FloorExempt rows keep tokens whose log-prob is below the loss's
	// logprob_floor. Only the loss empo2 reads it.
	FloorExempt bool
}

// Trains reports whether token i is trained.
func (r Row) Trains(i int) bool {
	if r.LossMask == nil {
		return r.Advantages[i] != 0
	}
	return r.LossMask[i]
}

// weight is the importance weight of token i.
func (r Row) weight(i int) float32 {
	if r.ImportanceWeights == nil {
		return 1
	}
	return r.ImportanceWeights[i]
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
