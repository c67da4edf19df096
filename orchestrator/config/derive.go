package config

import (
	"reflect"
	"strings"
)

// Machine is the hardware that derived values depend on.
type Machine struct {
	GPU bool // a GPU that torch and vLLM can use
	// Architecture returns the model_type of a model folder, or "" if it is unknown;
	// nil: unknown.
	Architecture func(folder string) string
}

// derive fills in the values that follow from others, if they are empty, 0 or
// "auto".
func derive(c *Config, m Machine) {
	expandHome(c)
	if c.Run.Name == "" {
		c.Run.Name = c.Env.Name
	}
	deriveSampler(&c.Sampler, m)
	deriveRepeatable(c)
	if c.Trainer.Dtype == "auto" {
		c.Trainer.Dtype = "float32"
		if m.GPU && c.Trainer.Device != "cpu" {
			c.Trainer.Dtype = "bfloat16"
		}
	}
	if c.Rollout.Concurrency == 0 {
		c.Rollout.Concurrency = episodeConcurrency(c.Sampler)
	}
	if c.Env.ScienceWorld.Concurrency == 0 {
		c.Env.ScienceWorld.Concurrency = c.Rollout.Concurrency
	}
	if c.Sampler.Concurrency == 0 {
		c.Sampler.Concurrency = 1 + (c.Rollout.Concurrency-1)/c.Sampler.Replicas() // rounded up
	}
	if c.Sampler.CanaryTolerance == 0 {
		c.Sampler.CanaryTolerance = canaryTolerance(*c, m)
	}
	if c.Loss.AverageLength == 0 {
		c.Loss.AverageLength = c.Rollout.MaxTurns * c.Rollout.MaxTokens
	}
	// The trainer needs the other half of the GPU. Without a trainer vLLM uses its
	// own default. With another backend the key has no effect and one value, so
	// that a file with all keys stays valid for every algorithm.
	alone := c.Sampler.Backend == "vllm" && (c.Algorithm.Name == "adapt" || c.Trainer.URL != "")
	if v := &c.Sampler.VLLM; v.GPUMemoryUtilization == 0 && !alone {
		v.GPUMemoryUtilization = 0.5
	}
}

// repeatableTokens are those of a micro-batch of a repeatable run, where the free
// memory must not choose them.
const repeatableTokens = 4096

// deriveRepeatable sets what a repeatable run needs: no request shares a batch with
// another one, and no measurement chooses threads or micro-batches.
func deriveRepeatable(c *Config) {
	if !c.Run.Repeatable {
		return
	}
	c.Rollout.Concurrency, c.Sampler.Concurrency = 1, 1
	for key, value := range map[*int]int{
		&c.Sampler.LlamaCPP.Threads: 1, &c.Trainer.Threads: 1, &c.Trainer.MicroBatch: repeatableTokens,
	} {
		if *key == 0 {
			*key = value
		}
	}
}

func deriveSampler(s *Sampler, m Machine) {
	if s.Backend == "auto" {
		s.Backend = "llamacpp"
		if m.GPU {
			s.Backend = "vllm"
		}
	}
}

// episodeConcurrency returns how many episodes keep a server of this kind busy.
func episodeConcurrency(s Sampler) int {
	switch s.Backend {
	case "vllm", "sglang":
		return 64 * s.Replicas()
	case "openai":
		return 16
	}
	return 8
}

// canaryTolerance returns the mismatch in nats that the precision of server and
// trainer explains. Measured values are
//   - up to 3e-5 if both compute in float32;
//   - 0.03 to 0.06 if the server computes in its default precision;
//   - 0.007 with Ollama;
//   - 0.0013 with llama-server in float32, if the model's activation is GELU: on a
//     CPU llama.cpp reads GELU from a table in half precision, and no flag changes that;
//   - 0.17 with a GGUF file in Q4_1.
func canaryTolerance(c Config, m Machine) float64 {
	s, float32Trainer := c.Sampler, c.Trainer.Dtype == "float32"
	switch {
	case s.Backend == "llamacpp" && s.LlamaCPP.GGUF != "":
		return 0.3
	case s.Backend == "llamacpp" && s.LlamaCPP.ExactLogprobs && float32Trainer && m.usesGELU(c.Model.Path):
		return 0.02 // a value in half precision errs 8 times less than one in bfloat16
	case s.Backend == "llamacpp" && s.LlamaCPP.ExactLogprobs && float32Trainer:
		return 1e-3
	case s.Backend == "vllm" && s.VLLM.ExactLogprobs && len(s.VLLM.URLs) == 0 && float32Trainer:
		return 1e-3
	case s.Backend == "ollama" && float32Trainer:
		return 0.05
	}
	return 0.1
}

// usesGELU reports whether llama.cpp computes GELU for the model of a folder.
func (m Machine) usesGELU(folder string) bool {
	return m.Architecture != nil && folder != "" && strings.HasPrefix(m.Architecture(folder), "gemma")
}

// derivedKeys are the keys that derive may fill in.
var derivedKeys = []string{
	"run.name", "loss.average_length", "rollout.concurrency", "env.scienceworld.concurrency", "trainer.dtype",
	"sampler.backend", "sampler.concurrency", "trainer.threads", "trainer.micro_batch_tokens", "sampler.llamacpp.threads",
	"sampler.canary_tolerance", "sampler.vllm.gpu_memory_utilization",
}

// underived returns the value that a derived key of c would have if the user had
// left it out.
func underived(c, base Config, key string, m Machine) string {
	defaults := map[string]reflect.Value{}
	walk(reflect.ValueOf(base), "", func(name string, v reflect.Value) { defaults[name] = v }, nil)
	walk(reflect.ValueOf(&c).Elem(), "", func(name string, v reflect.Value) {
		if name == key {
			v.Set(defaults[name])
		}
	}, nil)
	derive(&c, m)
	return Values(c)[key]
}

// turnTokens estimates the tokens that a turn adds to a conversation apart from
// the reply: the observation and the template's own tokens.
const turnTokens = 256

// EpisodeTokens estimates the length of the longest conversation: an opening
// with tips, all turns, and the request for a tip. It is a multiple of 1024.
func (c Config) EpisodeTokens() int {
	n := 1024 + c.Rollout.MaxTurns*(c.Rollout.MaxTokens+turnTokens) + c.Reflection.MaxTokens
	return (n + 1023) / 1024 * 1024
}

// ContextTokens returns the context length that a server must have. It is
// sampler.max_model_len if that is set. Otherwise it is what an episode needs,
// but no more than modelLimit. modelLimit is 0 if the model's limit is unknown.
func (c Config) ContextTokens(modelLimit int) int {
	if c.Sampler.MaxModelLen > 0 {
		return c.Sampler.MaxModelLen
	}
	if n := c.EpisodeTokens(); modelLimit == 0 || n < modelLimit {
		return n
	}
	return modelLimit
}

// NeedsModel reports whether a run needs model.path: it trains, or empo2 starts
// the server.
func (c Config) NeedsModel() bool {
	s := c.Sampler
	launched := s.Backend == "llamacpp" || s.Backend == "vllm" && len(s.VLLM.URLs) == 0 && len(s.VLLM.Launch) == 0
	return c.Algorithm.Name != "adapt" || launched
}

// RequireModel refuses a run that needs a model and has none.
func RequireModel(c Config) error {
	if c.Model.Path != "" || !c.NeedsModel() {
		return nil
	}
	return &Error{"model.path", "no model is named",
		"empo2 run --profile demo runs the demonstration; empo2 init --model DIR writes a configuration for your model"}
}
