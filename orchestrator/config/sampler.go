package config

// Sampler chooses the inference server; each backend has its own table.
type Sampler struct {
	Backend  string   `toml:"backend" doc:"llamacpp (started here), vllm, sglang, ollama, or openai: any OpenAI-compatible endpoint, for algorithm.name = adapt"`
	Model    string   `toml:"model" doc:"llamacpp: embedded, a folder in Hugging Face format, or a GGUF file of trainer.model; else the name that the server knows it by, empty for the only one"`
	Template string   `toml:"template" doc:"auto (the server's own, verified), chatml, llama3, gemma or mistral"`
	Thinking string   `toml:"thinking" doc:"keep or strip: whether what was written in <think> stays in the conversation"`
	Canary   float64  `toml:"canary" doc:"largest difference of log-probs between server and trainer that a new version may show"`
	LlamaCPP LlamaCPP `toml:"llamacpp"`
	VLLM     VLLM     `toml:"vllm"`
	SGLang   SGLang   `toml:"sglang"`
	Ollama   Ollama   `toml:"ollama"`
	OpenAI   OpenAI   `toml:"openai"`
}

// LlamaCPP configures the llama-server processes.
type LlamaCPP struct {
	Binary         string   `toml:"binary" doc:"a llama-server of your own, for example one built for a GPU; empty: the installed one, for CPUs"`
	Args           []string `toml:"args" doc:"further arguments of binary, for example [\"-ngl\", \"99\"]"`
	Slots          int      `toml:"slots" doc:"requests served at once"`
	Context        int      `toml:"context" doc:"tokens per slot; 0: what the model was trained with"`
	Threads        int      `toml:"threads"`
	ExactLogprobs  bool     `toml:"exact_logprobs" doc:"f32 cache, no flash attention: log-probs equal the trainer's to 1e-5"`
	TimeoutSeconds float64  `toml:"timeout_seconds" doc:"deadline of a request"`
}

// VLLM configures vLLM servers, running or started here.
type VLLM struct {
	URLs               []string `toml:"urls" doc:"servers that run already, one per replica; none: start them here (EMPO2_SERVER_KEY: their API key)"`
	Launch             []string `toml:"launch" doc:"command that starts a server, with {port}, and {model}, {name}, {key} where wanted; none: vllm serve with the right flags"`
	Python             string   `toml:"python" doc:"interpreter that has vLLM, to start servers with; empty: the command vllm"`
	Replicas           int      `toml:"replicas" doc:"servers to start"`
	Context            int      `toml:"context" doc:"tokens of a conversation, of a started server; 0: the model's"`
	ExactLogprobs      bool     `toml:"exact_logprobs" doc:"a started server computes in float32: log-probs equal the trainer's to 1e-5"`
	Sleep              bool     `toml:"sleep" doc:"the server leaves its GPU memory to the trainer between steps"`
	CacheSalt          bool     `toml:"cache_salt" doc:"keep this run's prefix cache apart from everybody's"`
	Requests           int      `toml:"requests" doc:"requests at one replica at most"`
	TimeoutSeconds     float64  `toml:"timeout_seconds" doc:"deadline of a request"`
	LoadTimeoutSeconds float64  `toml:"load_timeout_seconds" doc:"deadline for an adapter to be served by all replicas"`
}

// SGLang configures SGLang servers, running or started here.
type SGLang struct {
	URLs               []string `toml:"urls" doc:"servers that run already, one per replica; none: launch one (EMPO2_SERVER_KEY: their API key)"`
	Launch             []string `toml:"launch" doc:"command that starts one here, with {port}"`
	Sleep              bool     `toml:"sleep" doc:"the server leaves its GPU memory to the trainer between steps"`
	Requests           int      `toml:"requests" doc:"requests at one replica at most"`
	TimeoutSeconds     float64  `toml:"timeout_seconds" doc:"deadline of a request"`
	LoadTimeoutSeconds float64  `toml:"load_timeout_seconds" doc:"deadline for an adapter to be served by all replicas"`
}

// Ollama configures an Ollama server that runs already.
type Ollama struct {
	URL                string  `toml:"url" doc:"of the server, which runs already"`
	Context            int     `toml:"context" doc:"tokens of a conversation; 0: the model's, 4096 at most"`
	Threads            int     `toml:"threads" doc:"0: the server's choice"`
	Requests           int     `toml:"requests" doc:"requests sent at once; it computes OLLAMA_NUM_PARALLEL of them"`
	TimeoutSeconds     float64 `toml:"timeout_seconds" doc:"deadline of a request"`
	LoadTimeoutSeconds float64 `toml:"load_timeout_seconds" doc:"deadline for a new version to be served"`
}

// OpenAI configures an OpenAI-compatible endpoint.
type OpenAI struct {
	URL            string  `toml:"url" doc:"for example https://api.openai.com/v1; its key is in EMPO2_SERVER_KEY"`
	SystemRole     string  `toml:"system_role" doc:"role of the system message: system, developer, or user for models that know no other"`
	Requests       int     `toml:"requests" doc:"requests sent at once"`
	TimeoutSeconds float64 `toml:"timeout_seconds" doc:"deadline of a request"`
}

func defaultSampler() Sampler {
	return Sampler{
		Backend: "llamacpp", Model: "embedded", Template: "auto", Thinking: "keep", Canary: 1e-3,
		LlamaCPP: LlamaCPP{Args: []string{}, Slots: 16, Threads: 1, ExactLogprobs: true, TimeoutSeconds: 60},
		VLLM:     VLLM{URLs: []string{}, Launch: []string{}, Replicas: 1, CacheSalt: true, Requests: 64, TimeoutSeconds: 300, LoadTimeoutSeconds: 120},
		SGLang:   SGLang{URLs: []string{}, Launch: []string{}, Requests: 64, TimeoutSeconds: 300, LoadTimeoutSeconds: 120},
		Ollama:   Ollama{URL: "http://127.0.0.1:11434", Requests: 16, TimeoutSeconds: 300, LoadTimeoutSeconds: 300},
		OpenAI:   OpenAI{SystemRole: "system", Requests: 16, TimeoutSeconds: 120},
	}
}
