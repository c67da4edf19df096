// Package config defines config.toml: its keys, their defaults, and which values
// and combinations are valid. Start with [Config], the keys as Go types, and
// with defaults.toml, which has the default and the meaning of every key.
// [Source.Load] reads a configuration.
//
// A configuration is built in layers. Each layer overrides those before it:
//  1. defaults.toml
//  2. a profile of the folder profiles
//  3. the user's files
//  4. --set on the command line
//
// Then derive.go fills in the values that follow from others, and check.go
// checks the result.
package config

// Config is the whole of config.toml. The meaning of each key is in
// defaults.toml.
type Config struct {
	Profile    string     `toml:"profile"`
	Model      Model      `toml:"model"`
	Run        Run        `toml:"run"`
	Env        Env        `toml:"env"`
	Prompt     Prompt     `toml:"prompt"`
	Algorithm  Algorithm  `toml:"algorithm"`
	Loss       Loss       `toml:"loss"`
	Optimizer  Optimizer  `toml:"optimizer"`
	Rollout    Rollout    `toml:"rollout"`
	Memory     Memory     `toml:"memory"`
	Novelty    Novelty    `toml:"novelty"`
	Reflection Reflection `toml:"reflection"`
	Eval       Eval       `toml:"eval"`
	Sampler    Sampler    `toml:"sampler"`
	Divergence Divergence `toml:"divergence"`
	Trainer    Trainer    `toml:"trainer"`
}

// Embedded is the value of model.path for the demonstration's policy.
const Embedded = "embedded"

// Model names the model to train and to serve.
type Model struct {
	Path string `toml:"path"`
}

// Run sets the folder of a run and its length.
type Run struct {
	Name            string  `toml:"name"`
	Dir             string  `toml:"dir"`
	Seed            uint64  `toml:"seed"`
	Steps           int     `toml:"steps"`
	MaxSeconds      float64 `toml:"max_seconds"`
	KeepCheckpoints int     `toml:"keep_checkpoints"`
	KeepEpisodes    int     `toml:"keep_episodes"`
	StallMinutes    float64 `toml:"stall_minutes"`
	Repeatable      bool    `toml:"repeatable"`
	// MustFit refuses a run that needs more memory than there is.
	MustFit bool `toml:"must_fit"`
	// TensorBoard and Prometheus show the run to these programs while it goes on.
	TensorBoard bool   `toml:"tensorboard"`
	MetricNames string `toml:"metric_names"`
	Prometheus  string `toml:"prometheus"`
}

// KeptCheckpoints is how many checkpoints a run keeps. The trainer needs those of the
// versions that have sampled what it trains.
func (c Config) KeptCheckpoints() int { return max(c.Run.KeepCheckpoints, c.Rollout.MaxStaleness+1) }

// Env chooses the environment; each has its own table.
type Env struct {
	Name         string       `toml:"name"`
	Vault        Vault        `toml:"vault"`
	ScienceWorld ScienceWorld `toml:"scienceworld"`
	WebShop      WebShop      `toml:"webshop"`
	Remote       Remote       `toml:"remote"`
	AgentGym     AgentGym     `toml:"agentgym"`
	OpenEnv      OpenEnv      `toml:"openenv"`
	ORS          ORS          `toml:"ors"`
}

// Prompt chooses the prompt template, the texts around an observation.
type Prompt struct {
	Template string `toml:"template"`
}

// ScienceWorld configures the simulator of ScienceWorld.
type ScienceWorld struct {
	Tasks           []string `toml:"tasks"`
	TrainVariations int      `toml:"train_variations"`
	EvalVariations  int      `toml:"eval_variations"`
	Simplifications string   `toml:"simplifications"`
	StepLimit       int      `toml:"step_limit"`
	Reads           string   `toml:"reads"`
	Isolation       string   `toml:"isolation"`
	Actions         string   `toml:"actions"`
	Concurrency     int      `toml:"concurrency"`
	Jar             string   `toml:"jar"`
	JarSHA256       string   `toml:"jar_sha256"`
	Deterministic   bool     `toml:"deterministic"`
	Java            string   `toml:"java"`
	Env             []string `toml:"env"`
}

// WebShop configures the native engine of WebShop.
type WebShop struct {
	Data       string `toml:"data"`
	Items      string `toml:"items"`
	Attributes string `toml:"attributes"`
	OwnData    bool   `toml:"own_data"`
	Mode       string `toml:"mode"`
	Goals      string `toml:"goals"`
	SeedMode   string `toml:"seed_mode"`
	Nouns      string `toml:"nouns"`
	Products   int    `toml:"products"`
	MaxTurns   int    `toml:"max_turns"`
	Reward     string `toml:"reward"`
}

// Remote configures an environment behind the minimal HTTP schema.
type Remote struct {
	URL        string `toml:"url"`
	TrainTasks int    `toml:"train_tasks"`
	TestTasks  int    `toml:"test_tasks"`
}

// AgentGym configures a server of AgentGym. If the server needs a bearer token,
// set EMPO2_ENV_KEY. The same is true for Remote, OpenEnv and ORS.
type AgentGym struct {
	URL            string  `toml:"url"`
	Dialect        string  `toml:"dialect"`
	Train          string  `toml:"train"`
	Eval           string  `toml:"eval"`
	Test           string  `toml:"test"`
	Instruction    string  `toml:"instruction"`
	TimeoutSeconds float64 `toml:"timeout_seconds"`
}

// OpenEnv configures a server of OpenEnv.
type OpenEnv struct {
	URL            string   `toml:"url"`
	Train          string   `toml:"train"`
	Eval           string   `toml:"eval"`
	Test           string   `toml:"test"`
	Action         string   `toml:"action"`
	Observation    []string `toml:"observation"`
	Options        string   `toml:"options"`
	Instruction    string   `toml:"instruction"`
	Concurrency    int      `toml:"concurrency"`
	TimeoutSeconds float64  `toml:"timeout_seconds"`
}

// ORS configures a server of the Open Reward Standard.
type ORS struct {
	URL            string  `toml:"url"`
	Environment    string  `toml:"environment"`
	Train          string  `toml:"train"`
	Eval           string  `toml:"eval"`
	Test           string  `toml:"test"`
	Tool           string  `toml:"tool"`
	Input          string  `toml:"input"`
	TimeoutSeconds float64 `toml:"timeout_seconds"`
}

// Vault configures the embedded environment.
type Vault struct {
	Houses          []int64 `toml:"houses"`
	Doors           int     `toml:"doors"`
	Levers          int     `toml:"levers"`
	Score           string  `toml:"score"`
	TrainVariations int     `toml:"train_variations"`
	TestVariations  int     `toml:"test_variations"`
}

// Algorithm is what EMPO² adds to GRPO, and GRPO's own group settings.
type Algorithm struct {
	Name                 string  `toml:"name"`
	Groups               int     `toml:"groups"`
	GroupSize            int     `toml:"group_size"`
	ModeDraw             string  `toml:"mode_draw"`
	MemoryProbability    float64 `toml:"memory_probability"`
	MemoryAnneal         bool    `toml:"memory_anneal"`
	MemoryProbabilityMin float64 `toml:"memory_probability_min"`
	OffPolicyProbability float64 `toml:"off_policy_probability"`
	GenerationBatches    int     `toml:"generation_batches"`
	Estimator            string  `toml:"estimator"`
	Baseline             string  `toml:"baseline"`
	NormalizeStd         bool    `toml:"normalize_std"`
	StepDiscount         float64 `toml:"step_discount"`
	StepWeight           float64 `toml:"step_weight"`
}

// Loss is the objective of EMPO² (a surrogate such as PPO's clip, mask, KL).
type Loss struct {
	Surrogate    string  `toml:"surrogate"`
	ClipLow      float64 `toml:"clip_low"`
	ClipHigh     float64 `toml:"clip_high"`
	DualClip     float64 `toml:"dual_clip"`
	LogprobFloor float64 `toml:"logprob_floor"`
	// OffPolicyLogprobs is the context of the old log-probs of off-policy rows.
	OffPolicyLogprobs string  `toml:"off_policy_logprobs"`
	KL                float64 `toml:"kl"`
	KLSampled         float64 `toml:"kl_sampled"`
	KLEstimator       string  `toml:"kl_estimator"`
	FlatGroups        bool    `toml:"flat_groups"`
	Entropy           float64 `toml:"entropy"`
	// These bound the difference between server and trainer.
	MismatchCap       float64 `toml:"mismatch_cap"`
	MismatchMode      string  `toml:"mismatch_mode"`
	MismatchFloor     float64 `toml:"mismatch_floor"`
	MismatchTolerance float64 `toml:"mismatch_tolerance"`
	Average           string  `toml:"average"`
	AverageLength     int     `toml:"average_length"`
	MiniBatch         int     `toml:"minibatch"`
	Epochs            int     `toml:"epochs"`
}

// Optimizer is AdamW on the adapter's weights, with its learning-rate schedule.
type Optimizer struct {
	LearningRate float64 `toml:"learning_rate"`
	Schedule     string  `toml:"schedule"`
	WarmupSteps  int     `toml:"warmup_steps"`
	Beta1        float64 `toml:"beta1"`
	Beta2        float64 `toml:"beta2"`
	Eps          float64 `toml:"eps"`
	WeightDecay  float64 `toml:"weight_decay"`
	GradClipNorm float64 `toml:"grad_clip_norm"`
}

// Divergence says when the training diverges, and what happens then.
type Divergence struct {
	GradNorm float64 `toml:"grad_norm"`
	KL       float64 `toml:"kl"`
	Entropy  float64 `toml:"entropy"`
	Patience int     `toml:"patience"`
}

// Rollout sets how episodes are sampled.
type Rollout struct {
	Temperature   float64  `toml:"temperature"`
	TopP          float64  `toml:"top_p"`
	TopK          int      `toml:"top_k"`
	Stop          []string `toml:"stop"`
	MaxTurns      int      `toml:"max_turns"`
	MaxTokens     int      `toml:"max_tokens"`
	Concurrency   int      `toml:"concurrency"`
	MaskTruncated bool     `toml:"mask_truncated"`
	// These punish long replies.
	OverlongBuffer int     `toml:"overlong_buffer"`
	OverlongFactor float64 `toml:"overlong_factor"`
	Retries        int     `toml:"retries"`
	MaxStaleness   int     `toml:"max_staleness"`
	// These bound how long a step waits for its slowest episodes.
	Quorum          float64 `toml:"quorum"`
	DeadlineSeconds float64 `toml:"deadline_seconds"`
}

// Novelty is the intrinsic reward 1/n.
type Novelty struct {
	Weight float64 `toml:"weight"`
	Source string  `toml:"source"`
	Cap    int     `toml:"cap"`
}

// Reflection sets how tips are written.
type Reflection struct {
	By          string  `toml:"by"`
	EarlierTips int     `toml:"earlier_tips"`
	Temperature float64 `toml:"temperature"`
	MaxTokens   int     `toml:"max_tokens"`
}

// Eval is the evaluation without tips.
type Eval struct {
	Every         int     `toml:"every"`
	Episodes      int     `toml:"episodes"`
	FinalEpisodes int     `toml:"final_episodes"`
	Temperature   float64 `toml:"temperature"`
	TopP          float64 `toml:"top_p"`
	TopK          int     `toml:"top_k"`
}

// AllLinear is the value of trainer.target_modules for all linear layers but
// the output.
const AllLinear = "all-linear"

// Trainer configures the trainer process and the adapter.
type Trainer struct {
	// URL is the address of a trainer that runs already; empty: empo2 starts one. BaseModel is
	// its name of the model.
	URL            string   `toml:"url"`
	BaseModel      string   `toml:"base_model"`
	Rank           int      `toml:"rank"`
	Alpha          float64  `toml:"alpha"`
	TargetModules  []string `toml:"target_modules"`
	Dtype          string   `toml:"dtype"`
	Quantize       string   `toml:"quantize"`
	MicroBatch     int      `toml:"micro_batch_tokens"`
	Device         string   `toml:"device"`
	GPUs           int      `toml:"gpus"`
	Parallel       string   `toml:"parallel"`
	Threads        int      `toml:"threads"`
	TimeoutSeconds float64  `toml:"timeout_seconds"`
	Restarts       int      `toml:"restarts"`
	Env            []string `toml:"env"`
	// MaxIncompleteSteps bounds the steps in a row in which rows were left out.
	MaxIncompleteSteps int `toml:"max_incomplete_steps"`
}
