package config

import (
	"fmt"
	"net/url"
	"slices"
)

// servers are the values of sampler.backend; each has a table of its name.
var servers = []string{"llamacpp", "vllm", "sglang", "ollama", "openai"}

// samplerRules are the rules of [sampler] and its tables.
func samplerRules(c Config) []rule {
	s := c.Sampler
	l, v, g, o, a := s.LlamaCPP, s.VLLM, s.SGLang, s.Ollama, s.OpenAI
	rules := []rule{
		oneOf("sampler.backend", s.Backend, servers...),
		oneOf("sampler.template", s.Template, "auto", "chatml", "llama3", "gemma", "mistral"),
		oneOf("sampler.thinking", s.Thinking, "keep", "strip"),
		above("sampler.canary", s.Canary),
		between("sampler.llamacpp.slots", float64(l.Slots), 1, 1024),
		between("sampler.llamacpp.context", float64(l.Context), 0, 1e7),
		between("sampler.llamacpp.threads", float64(l.Threads), 1, 1024),
		above("sampler.llamacpp.timeout_seconds", l.TimeoutSeconds),
		between("sampler.vllm.replicas", float64(v.Replicas), 1, 1024),
		between("sampler.vllm.context", float64(v.Context), 0, 1e7),
		between("sampler.vllm.requests", float64(v.Requests), 1, 1e5),
		above("sampler.vllm.timeout_seconds", v.TimeoutSeconds),
		above("sampler.vllm.load_timeout_seconds", v.LoadTimeoutSeconds),
		between("sampler.sglang.requests", float64(g.Requests), 1, 1e5),
		above("sampler.sglang.timeout_seconds", g.TimeoutSeconds),
		above("sampler.sglang.load_timeout_seconds", g.LoadTimeoutSeconds),
		between("sampler.ollama.context", float64(o.Context), 0, 1e7),
		between("sampler.ollama.threads", float64(o.Threads), 0, 1024),
		between("sampler.ollama.requests", float64(o.Requests), 1, 1e5),
		above("sampler.ollama.timeout_seconds", o.TimeoutSeconds),
		above("sampler.ollama.load_timeout_seconds", o.LoadTimeoutSeconds),
		oneOf("sampler.openai.system_role", a.SystemRole, "system", "developer", "user"),
		between("sampler.openai.requests", float64(a.Requests), 1, 1e5),
		above("sampler.openai.timeout_seconds", a.TimeoutSeconds),
	}
	for _, u := range v.URLs {
		rules = append(rules, address("sampler.vllm.urls", u))
	}
	for _, u := range g.URLs {
		rules = append(rules, address("sampler.sglang.urls", u))
	}
	format := map[string]string{"llamacpp": "gguf", "ollama": "gguf", "vllm": "peft", "sglang": "peft"}[s.Backend]
	rules = append(rules, rule{"trainer.formats", format == "" || c.Algorithm.Name == "adapt" || slices.Contains(c.Trainer.Formats, format),
		fmt.Sprintf("%s needs adapters in %s", s.Backend, format), `formats = ["peft", "gguf"]`})
	switch s.Backend {
	case "llamacpp":
		rules = append(rules, rule{"sampler.model", s.Model != "", "is empty", `"embedded" or a path`},
			rule{"sampler.model", (s.Model == "embedded") == (c.Trainer.Model == "embedded") || c.Algorithm.Name == "adapt",
				"sampler.model and trainer.model name different models", "both embedded, or both the same model"})
	case "ollama", "openai":
		rules = append(rules, rule{"sampler.model", s.Model != "" && s.Model != "embedded", fmt.Sprintf("%q is no model of the server", s.Model), "the name by which the server knows it"})
	}
	switch s.Backend {
	case "sglang":
		rules = append(rules, rule{"sampler.sglang.urls", len(g.URLs) > 0 || len(g.Launch) > 0, "no server, and no command to launch one", `for example urls = ["http://127.0.0.1:30000"]; empo2 doctor then says how to start it`})
	case "ollama":
		rules = append(rules, address("sampler.ollama.url", o.URL))
	case "openai":
		rules = append(rules, address("sampler.openai.url", a.URL),
			rule{"sampler.backend", c.Algorithm.Name == "adapt", "an OpenAI-compatible endpoint takes no adapters, so that nothing can be trained through it",
				`algorithm.name = "adapt" learns tips without weights; to train use llamacpp, vllm, sglang or ollama`})
	}
	return rules
}

// address is a URL of a server.
func address(key, text string) rule {
	u, err := url.Parse(text)
	ok := err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https")
	return rule{key, ok, fmt.Sprintf("%q is not the address of a server", text), `for example "http://127.0.0.1:8000"`}
}

// idleSampler lists what does nothing in [sampler] under the other settings.
func idleSampler(c Config, when func(cond bool, why string, keys ...string)) {
	s := c.Sampler
	for _, name := range servers {
		when(s.Backend != name, fmt.Sprintf("sampler.backend is %q, not %q", s.Backend, name), "sampler."+name+".")
	}
	when(s.LlamaCPP.Binary == "", "sampler.llamacpp.binary is empty", "sampler.llamacpp.args")
	when(len(s.VLLM.URLs) > 0, "sampler.vllm.urls names servers that run already",
		"sampler.vllm.launch", "sampler.vllm.python", "sampler.vllm.replicas", "sampler.vllm.context", "sampler.vllm.exact_logprobs")
	when(len(s.VLLM.Launch) > 0, "sampler.vllm.launch is the whole command", "sampler.vllm.python", "sampler.vllm.context", "sampler.vllm.exact_logprobs")
	when(len(s.SGLang.URLs) > 0, "sampler.sglang.urls names servers that run already", "sampler.sglang.launch")
	when(s.Backend == "openai" || s.Backend == "ollama" && c.Algorithm.Name == "adapt", "the endpoint renders the conversation itself", "sampler.template")
}
