package config

import (
	"fmt"
	"strings"
)

// renamed maps the keys of earlier versions to their replacement. An empty
// replacement means that the value now follows from sampler.backend.
var renamed = map[string]string{
	"run.minutes":                         "run.max_seconds (60 times the value)",
	"rollout.max_steps":                   "rollout.max_turns",
	"rollout.episodes_in_flight":          "rollout.concurrency",
	"env.scienceworld.instances":          "env.scienceworld.concurrency",
	"env.webshop.max_steps":               "env.webshop.max_turns",
	"env.openenv.sessions":                "env.openenv.concurrency",
	"trainer.model":                       "model.path, for trainer and server",
	"trainer.formats":                     "",
	"sampler.model":                       "model.path, sampler.llamacpp.gguf (a file) or sampler.served_model_name",
	"sampler.canary":                      "sampler.canary_tolerance",
	"sampler.llamacpp.slots":              "sampler.concurrency",
	"sampler.llamacpp.context":            "sampler.max_model_len",
	"sampler.llamacpp.timeout_seconds":    "sampler.timeout_seconds",
	"sampler.vllm.context":                "sampler.max_model_len",
	"sampler.vllm.requests":               "sampler.concurrency",
	"sampler.vllm.timeout_seconds":        "sampler.timeout_seconds",
	"sampler.vllm.load_timeout_seconds":   "sampler.load_timeout_seconds",
	"sampler.sglang.requests":             "sampler.concurrency",
	"sampler.sglang.timeout_seconds":      "sampler.timeout_seconds",
	"sampler.sglang.load_timeout_seconds": "sampler.load_timeout_seconds",
	"sampler.ollama.context":              "sampler.max_model_len",
	"sampler.ollama.requests":             "sampler.concurrency",
	"sampler.ollama.timeout_seconds":      "sampler.timeout_seconds",
	"sampler.ollama.load_timeout_seconds": "sampler.load_timeout_seconds",
	"sampler.openai.requests":             "sampler.concurrency",
	"sampler.openai.timeout_seconds":      "sampler.timeout_seconds",
}

// unknownKeys returns the error for keys that do not exist. It lists all keys of
// earlier versions with their replacements. If there are none, it names the
// nearest valid key.
func unknownKeys(unknown []string, place func(key string) string) error {
	var old []string
	for _, key := range unknown {
		now, ok := renamed[key]
		switch {
		case ok && now == "":
			old = append(old, key+" is no longer needed: it follows from sampler.backend")
		case ok:
			old = append(old, key+" is now "+now)
		}
	}
	first := unknown[0]
	if len(old) > 0 {
		for _, key := range unknown {
			if _, ok := renamed[key]; ok {
				first = key
				break
			}
		}
		return &Error{place(first), "keys of an earlier version:\n    " + strings.Join(old, "\n    "),
			"change them; empo2 config prints every key with its meaning"}
	}
	return &Error{place(first), fmt.Sprintf("unknown key %q", first),
		fmt.Sprintf("the nearest valid key is %q", nearest(first))}
}
