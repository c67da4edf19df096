package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/safetext"
)

// servers are the values of sampler.backend. Each has a table of the same name.
var servers = []string{"llamacpp", "vllm", "sglang", "ollama", "openai"}

// Backends are the values of sampler.backend, without auto.
func Backends() []string { return append([]string(nil), servers...) }

// Environments are the values of env.name.
func Environments() []string { return append([]string(nil), environments...) }

// samplerRules are the rules of [sampler] and its tables.
func samplerRules(c Config) []rule {
	s := c.Sampler
	rules := []rule{
		oneOfOrAuto("sampler.backend", s.Backend, servers...),
		oneOf("sampler.template", s.Template, "auto", "chatml", "llama3", "gemma", "mistral"),
		oneOf("sampler.thinking", s.Thinking, "keep", "strip"),
		between("sampler.max_model_len", float64(s.MaxModelLen), 0, 1e7),
		{"sampler.max_model_len", s.MaxModelLen <= 0 || s.MaxModelLen > c.Rollout.MaxTokens,
			fmt.Sprintf("%d leaves no room for a prompt, since a reply may have rollout.max_tokens = %d", s.MaxModelLen,
				c.Rollout.MaxTokens), "a larger value, 0 for what an episode needs, or a smaller rollout.max_tokens"},
		between("sampler.concurrency", float64(s.Concurrency), 1, 1e5),
		positive("sampler.canary_tolerance", s.CanaryTolerance, 1e3),
		duration("sampler.timeout_seconds", s.TimeoutSeconds),
		duration("sampler.load_timeout_seconds", s.LoadTimeoutSeconds),
		between("sampler.llamacpp.threads", float64(s.LlamaCPP.Threads), 0, 1024),
		between("sampler.llamacpp.replicas", float64(s.LlamaCPP.Replicas), 1, 1024),
		between("sampler.vllm.replicas", float64(s.VLLM.Replicas), 1, 1024),
		between("sampler.vllm.gpu_memory_utilization", s.VLLM.GPUMemoryUtilization, 0, 1),
		between("sampler.ollama.threads", float64(s.Ollama.Threads), 0, 1024),
		oneOf("sampler.openai.system_role", s.OpenAI.SystemRole, "system", "developer", "user"),
	}
	rules = slices.Concat(rules, deviceRules("sampler.llamacpp", s.LlamaCPP.Replicas, s.LlamaCPP.Devices, s.LlamaCPP.Env),
		deviceRules("sampler.vllm", s.VLLM.Replicas, s.VLLM.Devices, s.VLLM.Env),
		deviceRules("sampler.sglang", 1, s.SGLang.Devices, s.SGLang.Env))
	const once = "name each server once"
	rules = append(rules, rule{"sampler.vllm.urls", !repeats(s.VLLM.URLs), "a server is given twice", once},
		rule{"sampler.sglang.urls", !repeats(s.SGLang.URLs), "a server is given twice", once},
		optionalAddress("sampler.ollama.url", s.Ollama.URL), optionalAddress("sampler.openai.url", s.OpenAI.URL),
		optionalAddress("memory.url", c.Memory.URL))
	for _, u := range s.VLLM.URLs {
		rules = append(rules, address("sampler.vllm.urls", u))
	}
	for _, u := range s.SGLang.URLs {
		rules = append(rules, address("sampler.sglang.urls", u))
	}
	return slices.Concat(rules, environmentVariables("sampler.llamacpp.env", s.LlamaCPP.Env),
		environmentVariables("sampler.vllm.env", s.VLLM.Env), environmentVariables("sampler.sglang.env", s.SGLang.Env),
		backendRules(c))
}

// deviceRules require a list of GPUs for each replica, or none, and only one key that
// names them.
func deviceRules(table string, replicas int, devices, env []string) []rule {
	if len(devices) == 0 {
		return nil
	}
	key := table + ".devices"
	rules := []rule{{key, len(devices) == replicas,
		fmt.Sprintf("%d entries, and servers to start: %d", len(devices), replicas),
		`an entry for each server that empo2 starts, for example ["0", "1"] for replicas = 2`}}
	for _, d := range devices {
		rules = append(rules, rule{key, deviceList.MatchString(d), fmt.Sprintf("%q names no GPUs", d),
			`"0", "0,1", or the UUID that nvidia-smi -L prints`})
	}
	named := slices.ContainsFunc(env, func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return name == "CUDA_VISIBLE_DEVICES"
	})
	return append(rules, rule{table + ".env", !named, "names CUDA_VISIBLE_DEVICES, which " + key + " sets",
		"leave it out of one of them"})
}

// deviceList matches values of CUDA_VISIBLE_DEVICES that name at least one GPU.
var deviceList = regexp.MustCompile(`^[A-Za-z0-9/-]+(,[A-Za-z0-9/-]+)*$`)

// maxRankVLLM is the largest value of vLLM's --max-lora-rank.
const maxRankVLLM = 512

// backendRules are the rules of the chosen backend.
func backendRules(c Config) []rule {
	s, trains := c.Sampler, c.Algorithm.Name != "adapt"
	ggufPath := rule{"model.path", !strings.HasSuffix(c.Model.Path, ".gguf") || s.Backend == "llamacpp" && !trains,
		"a GGUF file cannot be trained, and only llamacpp serves it",
		"name the model's folder in Hugging Face format; sampler.llamacpp.gguf may name the file to serve"}
	switch s.Backend {
	case "vllm":
		return []rule{ggufPath, {"trainer.rank", !trains || c.Trainer.Rank <= maxRankVLLM,
			fmt.Sprintf("vLLM serves adapters up to rank %d, this one has %d", maxRankVLLM, c.Trainer.Rank),
			"lower it, or choose llamacpp, sglang or ollama with sampler.backend"}}
	case "llamacpp":
		return []rule{ggufPath,
			{"sampler.llamacpp.gguf", s.LlamaCPP.GGUF == "" || c.Model.Path != Embedded,
				"is another model than model.path", "name the model's folder with model.path"}}
	case "sglang":
		return []rule{ggufPath, {"sampler.sglang.urls", len(s.SGLang.URLs) > 0 || len(s.SGLang.Launch) > 0,
			"no server, and no command to launch one",
			`for example urls = ["http://127.0.0.1:30000"]; empo2 doctor then says how to start it`}}
	case "ollama":
		return []rule{ggufPath, servedName(s), address("sampler.ollama.url", s.Ollama.URL)}
	case "openai":
		return []rule{ggufPath,
			{"sampler.backend", !trains, "an OpenAI-compatible endpoint takes no adapters, so nothing can be trained",
				`algorithm.name = "adapt" learns tips without weights; to train use llamacpp, vllm, sglang or ollama`},
			servedName(s), address("sampler.openai.url", s.OpenAI.URL)}
	}
	return []rule{ggufPath}
}

// servedName requires the model's name on a server that may have several.
func servedName(s Sampler) rule {
	return rule{"sampler.served_model_name", s.ServedModelName != "", "is empty",
		"the name by which the server knows the model"}
}

// address requires the URL of a server.
func address(key, text string) rule {
	u, err := url.Parse(text)
	ok := err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
	says := fmt.Sprintf("%q is not the address of a server", safetext.URL(text))
	if ok && strings.ContainsAny(text, "?#") { // the paths of requests are appended; a query may hold a key
		before, _, _ := strings.Cut(safetext.URL(text), "?")
		return rule{key, false, fmt.Sprintf("%q has a query or a fragment after it", before),
			"leave out what begins with ? or #; keys are taken from EMPO2_SERVER_KEY, EMPO2_ENV_KEY, " +
				"EMPO2_EMBEDDER_KEY, EMPO2_MEMORY_KEY or EMPO2_TRAINER_KEY"}
	}
	return rule{key, ok, says, `for example "http://127.0.0.1:8000"`}
}

// optionalAddress requires the URL of a server, or nothing.
func optionalAddress(key, text string) rule {
	if text == "" {
		return rule{key, true, "", ""}
	}
	return address(key, text)
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// environmentVariables requires entries NAME or NAME=VALUE. Errors do not show the value.
func environmentVariables(key string, entries []string) []rule {
	var rules []rule
	for _, entry := range entries {
		name, _, _ := strings.Cut(entry, "=")
		ok := variableName.MatchString(name) && !strings.ContainsRune(entry, 0)
		rules = append(rules,
			rule{key, ok, fmt.Sprintf("%.80q is not the name of an environment variable", name),
				`"NAME", or "NAME=VALUE"`},
			rule{key, !strings.HasPrefix(name, "EMPO2_"), name + " is empo2's own", "leave it out"})
	}
	return rules
}

// idleSampler lists the keys of [sampler] that have no effect under the other
// settings.
func idleSampler(c Config, when func(cond bool, why string, keys ...string)) {
	s := c.Sampler
	for _, name := range servers {
		when(s.Backend != name, fmt.Sprintf("sampler.backend is %q, not %q", s.Backend, name), "sampler."+name+".")
	}
	when(s.Backend == "llamacpp", "empo2 starts llama-server with one model", "sampler.served_model_name")
	when(s.Backend == "llamacpp" || s.Backend == "openai",
		fmt.Sprintf("sampler.backend is %q, which loads no adapters", s.Backend),
		"sampler.load_timeout_seconds")
	when(s.LlamaCPP.Binary == "", "sampler.llamacpp.binary is empty", "sampler.llamacpp.args")
	when(len(s.VLLM.URLs) > 0, "sampler.vllm.urls names running servers", "sampler.vllm.launch", "sampler.vllm.python",
		"sampler.vllm.replicas", "sampler.vllm.devices", "sampler.vllm.gpu_memory_utilization", "sampler.vllm.exact_logprobs",
		"sampler.vllm.env")
	when(len(s.VLLM.Launch) > 0, "sampler.vllm.launch is the whole command", "sampler.vllm.python",
		"sampler.vllm.gpu_memory_utilization", "sampler.vllm.exact_logprobs")
	when(len(s.SGLang.URLs) > 0, "sampler.sglang.urls names running servers", "sampler.sglang.launch",
		"sampler.sglang.devices", "sampler.sglang.env")
	running := s.Backend == "sglang" || s.Backend == "openai" || s.Backend == "vllm" &&
		len(s.VLLM.URLs)+len(s.VLLM.Launch) > 0
	when(running, "empo2 does not start the server", "sampler.max_model_len")
	when(s.Template != "auto", fmt.Sprintf("sampler.template is %q, which takes no arguments", s.Template),
		"sampler.template_args")
	when(s.Backend == "openai" || s.Backend == "ollama" && c.Algorithm.Name == "adapt",
		"the endpoint renders the conversation itself", "sampler.template")
}
