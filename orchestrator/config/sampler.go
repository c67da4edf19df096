package config

import (
	"encoding/json"
	"fmt"
)

// Sampler chooses the inference server; each backend has its own table.
type Sampler struct {
	Backend            string       `toml:"backend"`
	ServedModelName    string       `toml:"served_model_name"`
	Template           string       `toml:"template"`
	TemplateArgs       TemplateArgs `toml:"template_args"`
	Thinking           string       `toml:"thinking"`
	MaxModelLen        int          `toml:"max_model_len"`
	Concurrency        int          `toml:"concurrency"`
	CanaryTolerance    float64      `toml:"canary_tolerance"`
	TimeoutSeconds     float64      `toml:"timeout_seconds"`
	LoadTimeoutSeconds float64      `toml:"load_timeout_seconds"`
	LlamaCPP           LlamaCPP     `toml:"llamacpp"`
	VLLM               VLLM         `toml:"vllm"`
	SGLang             SGLang       `toml:"sglang"`
	Ollama             Ollama       `toml:"ollama"`
	OpenAI             OpenAI       `toml:"openai"`
}

// LlamaCPP configures the llama-server processes.
type LlamaCPP struct {
	GGUF          string   `toml:"gguf"`
	Binary        string   `toml:"binary"`
	Args          []string `toml:"args"`
	Threads       int      `toml:"threads"`
	Replicas      int      `toml:"replicas"`
	Devices       []string `toml:"devices"`
	ExactLogprobs bool     `toml:"exact_logprobs"`
	Env           []string `toml:"env"`
}

// VLLM configures vLLM servers. They run already, or empo2 starts them.
type VLLM struct {
	URLs                 []string `toml:"urls"`
	Launch               []string `toml:"launch"`
	Python               string   `toml:"python"`
	Replicas             int      `toml:"replicas"`
	Devices              []string `toml:"devices"`
	GPUMemoryUtilization float64  `toml:"gpu_memory_utilization"`
	ExactLogprobs        bool     `toml:"exact_logprobs"`
	Sleep                bool     `toml:"sleep"`
	CacheSalt            bool     `toml:"cache_salt"`
	Env                  []string `toml:"env"`
}

// SGLang configures SGLang servers. They run already, or empo2 starts them.
type SGLang struct {
	URLs   []string `toml:"urls"`
	Launch []string `toml:"launch"`
	// Devices has one entry, because empo2 starts one server.
	Devices []string `toml:"devices"`
	Sleep   bool     `toml:"sleep"`
	Env     []string `toml:"env"`
}

// Ollama configures an Ollama server that runs already.
type Ollama struct {
	URL     string `toml:"url"`
	Threads int    `toml:"threads"`
}

// OpenAI configures an OpenAI-compatible endpoint.
type OpenAI struct {
	URL        string `toml:"url"`
	SystemRole string `toml:"system_role"`
}

// TemplateArgs are arguments of a chat template by name. In a file they are a
// table, or a string with a JSON object.
type TemplateArgs map[string]any

// UnmarshalTOML reads a table or a JSON object.
func (a *TemplateArgs) UnmarshalTOML(v any) error {
	*a = nil
	switch v := v.(type) {
	case map[string]any:
		if len(v) > 0 {
			*a = v
		}
		return nil
	case string:
		var object map[string]any
		if err := json.Unmarshal([]byte(v), &object); err != nil || object == nil {
			return fmt.Errorf("%q is not a JSON object", v)
		}
		if len(object) > 0 {
			*a = object
		}
		return nil
	default:
		return fmt.Errorf("%v is neither a table nor a JSON object", v)
	}
}

// Replicas returns the number of servers that share the requests.
func (s Sampler) Replicas() int {
	switch s.Backend {
	case "vllm":
		return max(1, len(s.VLLM.URLs), s.VLLM.Replicas)
	case "sglang":
		return max(1, len(s.SGLang.URLs))
	case "llamacpp":
		return max(1, s.LlamaCPP.Replicas)
	}
	return 1
}

// Devices returns the GPUs of each replica that empo2 starts, as CUDA_VISIBLE_DEVICES. It
// is empty if the replicas inherit them, or if the servers run already.
func (s Sampler) Devices() []string {
	switch {
	case s.Backend == "llamacpp":
		return s.LlamaCPP.Devices
	case s.Backend == "vllm" && len(s.VLLM.URLs) == 0:
		return s.VLLM.Devices
	case s.Backend == "sglang" && len(s.SGLang.URLs) == 0:
		return s.SGLang.Devices
	}
	return nil
}

// Env returns the environment variables for the servers of the backend that empo2
// starts: NAME or NAME=VALUE.
func (s Sampler) Env() []string {
	switch s.Backend {
	case "llamacpp":
		return s.LlamaCPP.Env
	case "vllm":
		return s.VLLM.Env
	case "sglang":
		return s.SGLang.Env
	}
	return nil
}

// AdapterFormats returns the formats in which the trainer must write an adapter
// for the backend. They always include PEFT, because other programs read it.
func (s Sampler) AdapterFormats() []string {
	if s.Backend == "llamacpp" || s.Backend == "ollama" {
		return []string{"peft", "gguf"}
	}
	return []string{"peft"}
}
