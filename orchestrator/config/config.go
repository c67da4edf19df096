// Package config defines config.toml: its keys, their defaults, how a file is
// read (strictly) and which values and combinations are refused.
//
// Every key has a default and a doc tag; config.toml at the top of the
// repository is [Write] of [Default] and a test keeps it so.
package config

// Config is the whole of config.toml.
type Config struct {
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
	Trainer    Trainer    `toml:"trainer"`
}

// Run says where a run lives and how long it is.
type Run struct {
	Name            string  `toml:"name" doc:"the run's folder is <dir>/<name>; running it again continues it"`
	Dir             string  `toml:"dir"`
	Seed            uint64  `toml:"seed" doc:"every other seed derives from it"`
	Steps           int     `toml:"steps" doc:"training steps in all; raise it to train a finished run further"`
	Minutes         float64 `toml:"minutes" doc:"stop after the step in which this time is over; 0: no limit"`
	KeepCheckpoints int     `toml:"keep_checkpoints" doc:"how many of the newest adapters and optimizer states stay on disk"`
}

// Env chooses the environment; each has its own table.
type Env struct {
	Name         string       `toml:"name" doc:"vault, scienceworld, webshop, remote (an environment of your own behind HTTP), or a server of agentgym, openenv or ors"`
	Vault        Vault        `toml:"vault"`
	ScienceWorld ScienceWorld `toml:"scienceworld"`
	WebShop      WebShop      `toml:"webshop"`
	Remote       Remote       `toml:"remote"`
	AgentGym     AgentGym     `toml:"agentgym"`
	OpenEnv      OpenEnv      `toml:"openenv"`
	ORS          ORS          `toml:"ors"`
}

// Prompt chooses the texts around what the environment says.
type Prompt struct {
	Template string `toml:"template" doc:"plain, recipe (the paper's, for scienceworld and webshop), or the path of a file, read again before every step; empo2 prompt shows the result"`
}

// ScienceWorld configures the simulator of ScienceWorld.
type ScienceWorld struct {
	Tasks           []string `toml:"tasks" doc:"names such as boil, or numbers of the paper such as 1-1; none: all 30"`
	TrainVariations int      `toml:"train_variations" doc:"the first so many of each task's training variations; 0: all"`
	EvalVariations  int      `toml:"eval_variations" doc:"the first so many of each task's dev and test variations; 0: all"`
	Simplifications string   `toml:"simplifications" doc:"easy, none, or names joined by commas"`
	StepLimit       int      `toml:"step_limit" doc:"simulated steps after which an episode ends"`
	Reads           string   `toml:"reads" doc:"full: the streams of the Python package; lazy: faster, other but equally valid streams"`
	Isolation       string   `toml:"isolation" doc:"loader: several simulators in a JVM; jvm: one each"`
	Actions         string   `toml:"actions" doc:"raw, closest (to a valid action), or closest-recipe (as the paper's recipe does it)"`
	Instances       int      `toml:"instances" doc:"simulators at most, that is episodes at the same time"`
	Jar             string   `toml:"jar" doc:"path of scienceworld.jar; empty: as scripts/setup scienceworld or pip installed it"`
	JarSHA256       string   `toml:"jar_sha256" doc:"accept the jar with this checksum; empty: a published one"`
	Deterministic   bool     `toml:"deterministic" doc:"false: a fifth faster, and no score can be repeated"`
	Java            string   `toml:"java" doc:"launcher; empty: JAVA_HOME, then PATH"`
}

// WebShop configures the native engine of WebShop.
type WebShop struct {
	Data       string `toml:"data" doc:"folder of the original's data files; the message about a missing one says where to get it"`
	Items      string `toml:"items" doc:"the catalogue, within data; empty: items_shuffle_1000.json, else items_shuffle.json"`
	Attributes string `toml:"attributes" doc:"the attributes, within data; empty: the items_ins_v2 file that belongs to the catalogue"`
	OwnData    bool   `toml:"own_data" doc:"true: a catalogue of your own, whose files may have the names of the original's without being those"`
	Mode       string `toml:"mode" doc:"text or text_rich"`
	Goals      string `toml:"goals" doc:"synthetic or human"`
	SeedMode   string `toml:"seed_mode" doc:"verl or princeton: how goals are drawn and split"`
	Nouns      string `toml:"nouns" doc:"JSON file of the nouns of titles; empty: guessed, and rewards not comparable to the last digit"`
	Products   int    `toml:"products" doc:"the first so many of the catalogue; 0: all"`
	MaxSteps   int    `toml:"max_steps" doc:"actions after which an episode ends; the originals have 15"`
	Reward     string `toml:"reward" doc:"raw: the shop's own, 0 to 1; success: 10 for a perfect purchase, else 0 (verl-agent)"`
}

// Remote configures an environment behind the minimal HTTP schema.
type Remote struct {
	URL        string `toml:"url" doc:"for example http://127.0.0.1:8090 of scripts/example_env.py"`
	TrainTasks int    `toml:"train_tasks" doc:"tasks are seeds: 0 to train_tasks-1 for training and evaluation"`
	TestTasks  int    `toml:"test_tasks" doc:"the seeds after them, never trained on"`
}

// AgentGym configures a server of AgentGym. A bearer token, if one is needed,
// is taken from EMPO2_ENV_KEY; so it is for Remote, OpenEnv and ORS.
type AgentGym struct {
	URL            string  `toml:"url" doc:"of the server, for example http://127.0.0.1:36001 of empo2 env serve webshop"`
	Dialect        string  `toml:"dialect" doc:"which of AgentGym's servers it is: sciworld, webshop, alfworld, babyai, textcraft, maze, wordle, searchqa, sqlgym, academia, movie, sheet, todo, weather"`
	Train          string  `toml:"train" doc:"the server's numbers of the tasks to train on, such as \"0-99, 120\"; empty: the dialect's own split, where it has one"`
	Eval           string  `toml:"eval" doc:"tasks to evaluate on; empty: train"`
	Test           string  `toml:"test" doc:"tasks never trained on"`
	Instruction    string  `toml:"instruction" doc:"told once before the first observation; empty: what the dialect says about its actions"`
	TimeoutSeconds float64 `toml:"timeout_seconds" doc:"deadline of a request"`
}

// OpenEnv configures a server of OpenEnv.
type OpenEnv struct {
	URL            string   `toml:"url" doc:"of the server, http or ws"`
	Train          string   `toml:"train" doc:"seeds of the tasks to train on, such as \"0-99\""`
	Eval           string   `toml:"eval" doc:"seeds to evaluate on; empty: train"`
	Test           string   `toml:"test" doc:"seeds never trained on"`
	Action         string   `toml:"action" doc:"JSON object that an action is sent as; {action} stands for the policy's text, \"{action:json}\" for JSON that it wrote; empty: the one field of the server's schema"`
	Observation    []string `toml:"observation" doc:"what of an observation is shown, a line each, such as messages.-1.content; none: the only field, or all as JSON"`
	Options        string   `toml:"options" doc:"JSON object sent with every reset; empty: the seed alone"`
	Instruction    string   `toml:"instruction" doc:"told once before the first observation"`
	Sessions       int      `toml:"sessions" doc:"episodes at the same time; servers allow 1 by default (max_concurrent_envs)"`
	TimeoutSeconds float64  `toml:"timeout_seconds" doc:"deadline of a message and its answer"`
}

// ORS configures a server of the Open Reward Standard.
type ORS struct {
	URL            string  `toml:"url" doc:"of the server, for example http://127.0.0.1:8080"`
	Environment    string  `toml:"environment" doc:"which of the server's environments; empty: the only one"`
	Train          string  `toml:"train" doc:"tasks to train on: numbers of the server's split train, or of another as in \"hard:0-99\"; \"hard:\" is all of it, empty all of train"`
	Eval           string  `toml:"eval" doc:"tasks to evaluate on, numbers of the split validation or as above; empty: train"`
	Test           string  `toml:"test" doc:"tasks never trained on, numbers of the split test or as above"`
	Tool           string  `toml:"tool" doc:"the tool that every action is given to; empty: the policy writes tool calls, as {\"name\": …, \"input\": {…}}"`
	Input          string  `toml:"input" doc:"JSON object that is the tool's input; {action} stands for the policy's text, \"{action:json}\" for JSON that it wrote; empty: the tool's one field"`
	TimeoutSeconds float64 `toml:"timeout_seconds" doc:"deadline of a tool call, and of any other request"`
}

// Vault configures the embedded environment.
type Vault struct {
	Houses          []int64 `toml:"houses" doc:"seeds of the houses to train in"`
	Doors           int     `toml:"doors" doc:"doors on the way out, 2 to 8"`
	Levers          int     `toml:"levers" doc:"levers at each door, 2 to 12; one opens it"`
	Score           string  `toml:"score" doc:"sparse: 100 at the exit only; partial: 100/doors for each door"`
	TrainVariations int     `toml:"train_variations" doc:"walks of each house that are trained on"`
	TestVariations  int     `toml:"test_variations" doc:"further walks of the same house, never trained on"`
}

// Algorithm is what EMPO² adds to GRPO, and GRPO's own group settings.
type Algorithm struct {
	Name                 string  `toml:"name" doc:"empo2; grpo: the same loop with the memory off; adapt: with the memory on and the weights left alone"`
	Groups               int     `toml:"groups" doc:"groups (tasks) in a step"`
	GroupSize            int     `toml:"group_size" doc:"episodes in a group"`
	ModeDraw             string  `toml:"mode_draw" doc:"what draws a learning mode: step (the paper's reference), group, or episode (mixed groups)"`
	MemoryProbability    float64 `toml:"memory_probability" doc:"p_mem: probability that tips are shown (share of each group if mode_draw is episode); the reference has 0.25"`
	OffPolicyProbability float64 `toml:"off_policy_probability" doc:"p_off: probability that an episode with tips is learnt without them"`
	Baseline             string  `toml:"baseline" doc:"group: the group's mean return; tip-free: the mean of its episodes without tips (mode_draw = episode)"`
	NormalizeStd         bool    `toml:"normalize_std" doc:"divide advantages by the group's standard deviation (GRPO); false: Dr.GRPO"`
}

// Loss is the objective of EMPO² (PPO's clip, dual clip, mask, KL).
type Loss struct {
	ClipLow      float64 `toml:"clip_low" doc:"the ratio is clipped below 1 - clip_low"`
	ClipHigh     float64 `toml:"clip_high" doc:"the ratio is clipped above 1 + clip_high"`
	DualClip     float64 `toml:"dual_clip" doc:"bound of the loss for negative advantages, as a multiple of the advantage; 0: off"`
	LogprobFloor float64 `toml:"logprob_floor" doc:"tokens whose current log-prob is below this get no policy gradient; -1e30: off"`
	KL           float64 `toml:"kl" doc:"coefficient of the KL to the base model in the context that is trained (the paper's beta)"`
	KLSampled    float64 `toml:"kl_sampled" doc:"coefficient of the KL to the base model in the context the tokens were sampled in (extension)"`
	KLEstimator  string  `toml:"kl_estimator" doc:"exact (whole vocabulary) or k3 (taken token)"`
	// MismatchCap and MismatchTolerance bound the difference between server and trainer.
	MismatchCap       float64 `toml:"mismatch_cap" doc:"bound of the importance weights where server and trainer disagree on log-probs; 0: no correction"`
	MismatchTolerance float64 `toml:"mismatch_tolerance" doc:"mean difference in nats above which a step is corrected, and warned of"`
	Average           string  `toml:"average" doc:"episode: mean over an episode's tokens, then over episodes; token: mean over all tokens"`
	MiniBatch         int     `toml:"minibatch" doc:"episodes in one optimizer step"`
	Epochs            int     `toml:"epochs" doc:"passes over a step's episodes"`
}

// Optimizer is AdamW on the adapter's weights.
type Optimizer struct {
	LearningRate float64 `toml:"learning_rate"`
	Beta1        float64 `toml:"beta1"`
	Beta2        float64 `toml:"beta2"`
	Eps          float64 `toml:"eps"`
	WeightDecay  float64 `toml:"weight_decay"`
	GradClipNorm float64 `toml:"grad_clip_norm" doc:"0: off"`
}

// Rollout bounds episodes.
type Rollout struct {
	Temperature      float64 `toml:"temperature" doc:"of training episodes; 1 is the only value whose log-probs the trainer can match"`
	MaxSteps         int     `toml:"max_steps" doc:"actions in an episode"`
	MaxTokens        int     `toml:"max_tokens" doc:"tokens in an action"`
	EpisodesInFlight int     `toml:"episodes_in_flight" doc:"episodes that run at the same time"`
	Retries          int     `toml:"retries" doc:"times an episode is run again after the server or the environment failed it"`
}

// Memory is the bank of tips.
type Memory struct {
	K         int     `toml:"k" doc:"tips retrieved for a state, at most; the reference has 10"`
	Threshold float64 `toml:"threshold" doc:"cosine above which a stored state is similar"`
	Capacity  int     `toml:"capacity" doc:"entries per task variation; the oldest are dropped"`
	Keep      string  `toml:"keep" doc:"all: tips stay in the conversation; latest: only the newest turn shows tips"`
	Embedder  string  `toml:"embedder" doc:"ngram (built in), openai or ollama"`
	URL       string  `toml:"url" doc:"of the embedding server (openai, ollama)"`
	Model     string  `toml:"model" doc:"of the embedding server (openai, ollama)"`
}

// Novelty is the intrinsic reward 1/n.
type Novelty struct {
	Weight float64 `toml:"weight" doc:"lambda; 0: no intrinsic reward"`
	Source string  `toml:"source" doc:"n counts similar tips (the reference), or similar visited states (the paper's text): tips or states"`
	Cap    int     `toml:"cap" doc:"n counts so many at most (the reference: the 10 it retrieves); 0: all"`
}

// Reflection is how tips are written.
type Reflection struct {
	By          string  `toml:"by" doc:"policy (the paper), or base: the adapter switched off"`
	Temperature float64 `toml:"temperature"`
	MaxTokens   int     `toml:"max_tokens"`
}

// Eval is the evaluation without tips.
type Eval struct {
	Every         int     `toml:"every" doc:"steps between evaluations; 0: only at the end"`
	Episodes      int     `toml:"episodes" doc:"episodes per evaluation, spread evenly over the tasks"`
	FinalEpisodes int     `toml:"final_episodes" doc:"episodes of the last evaluation"`
	Temperature   float64 `toml:"temperature"`
}

// Trainer configures the trainer process and the adapter.
type Trainer struct {
	Model          string   `toml:"model" doc:"embedded, or a folder in Hugging Face format"`
	Rank           int      `toml:"rank"`
	Alpha          float64  `toml:"alpha"`
	Dtype          string   `toml:"dtype" doc:"of the base model: float32 or bfloat16; the adapter is float32 always"`
	Device         string   `toml:"device" doc:"auto, cpu, cuda or cuda:N"`
	Threads        int      `toml:"threads" doc:"torch threads; 0: torch's own choice"`
	Formats        []string `toml:"formats" doc:"what an adapter is written as: peft, gguf"`
	TimeoutSeconds float64  `toml:"timeout_seconds" doc:"deadline of a request"`
	Restarts       int      `toml:"restarts" doc:"how often a trainer that died is started again within a step"`
}

// Default is the embedded default: a demonstration that runs offline on a CPU.
func Default() Config {
	return Config{
		Run: Run{Name: "vault", Dir: "runs", Seed: 1, Steps: 48, KeepCheckpoints: 2},
		Env: Env{Name: "vault", Vault: Vault{Houses: []int64{1}, Doors: 4, Levers: 8, Score: "sparse", TrainVariations: 4, TestVariations: 4},
			ScienceWorld: ScienceWorld{Tasks: []string{}, Simplifications: "easy", StepLimit: 100, Reads: "full", Isolation: "loader", Actions: "raw", Instances: 8, Deterministic: true},
			WebShop:      WebShop{Mode: "text", Goals: "synthetic", SeedMode: "verl", MaxSteps: 15, Reward: "raw"},
			Remote:       Remote{TrainTasks: 16},
			AgentGym:     AgentGym{TimeoutSeconds: 60},
			OpenEnv:      OpenEnv{Train: "0-15", Observation: []string{}, Sessions: 1, TimeoutSeconds: 60},
			ORS:          ORS{TimeoutSeconds: 60},
		},
		Prompt: Prompt{Template: "plain"},
		Algorithm: Algorithm{
			Name: "empo2", Groups: 4, GroupSize: 16, ModeDraw: "episode",
			MemoryProbability: 0.5, OffPolicyProbability: 2.0 / 3, Baseline: "tip-free", NormalizeStd: true,
		},
		Loss: Loss{
			ClipLow: 0.2, ClipHigh: 0.3, DualClip: 10, LogprobFloor: -5, KL: 0.05, KLSampled: 0.3,
			KLEstimator: "exact", MismatchCap: 2, MismatchTolerance: 1e-3, Average: "episode", MiniBatch: 16, Epochs: 1,
		},
		Optimizer:  Optimizer{LearningRate: 3e-3, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, GradClipNorm: 1},
		Rollout:    Rollout{Temperature: 1, MaxSteps: 30, MaxTokens: 8, EpisodesInFlight: 16, Retries: 1},
		Memory:     Memory{K: 3, Threshold: 0.5, Capacity: 1000, Keep: "all", Embedder: "ngram"},
		Novelty:    Novelty{Weight: 1, Source: "tips"},
		Reflection: Reflection{By: "base", Temperature: 0.5, MaxTokens: 40},
		Eval:       Eval{Every: 4, Episodes: 64, FinalEpisodes: 256, Temperature: 1},
		Sampler:    defaultSampler(),
		Trainer:    Trainer{Model: "embedded", Rank: 8, Alpha: 16, Dtype: "float32", Device: "auto", Threads: 1, Formats: []string{"peft", "gguf"}, TimeoutSeconds: 300, Restarts: 3},
	}
}
