package config

import (
	"fmt"
	"regexp"
	"slices"
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
// earlier versions with their replacements. If there are none, it suggests keys
// for the first one.
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
	if len(first) > longestShown {
		return &Error{place(first), fmt.Sprintf("unknown key %q…", first[:longestShown]), noSuchKey}
	}
	return &Error{place(first), fmt.Sprintf("unknown key %q", first), suggest(first)}
}

// suggest names the key that the user may mean: the one that another program
// calls so, or the nearest one.
func suggest(key string) string {
	last := key[strings.LastIndex(key, ".")+1:]
	if same := familiar(last); len(same) > 0 {
		return fmt.Sprintf("other programs use the name %s; here it is %s", last, strings.Join(same, " or "))
	}
	if valid, far := nearest(key); !far {
		return fmt.Sprintf("the nearest valid key is %q", valid)
	}
	return noSuchKey
}

const (
	noSuchKey    = "empo2 config prints every key with its meaning"
	longestShown = 100 // bytes of a key in an error
)

// otherNames matches what a comment in defaults.toml says about another program,
// for example "verl: rollout.n" and "vLLM: --max-model-len".
var otherNames = regexp.MustCompile(`(?:TRL|verl|vLLM|peft|ScienceWorld): (?:--)?([\w.-]*\w)`)

// familiar returns the keys that other programs call name, sorted.
func familiar(name string) []string {
	var found []string
	for key, info := range keys() {
		for _, match := range otherNames.FindAllStringSubmatch(strings.Join(info.doc, " "), -1) {
			other := strings.ReplaceAll(match[1][strings.LastIndex(match[1], ".")+1:], "-", "_")
			if other == strings.ReplaceAll(name, "-", "_") && !slices.Contains(found, key) {
				found = append(found, key)
			}
		}
	}
	slices.Sort(found)
	return found
}
