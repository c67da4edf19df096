package config

import (
	"fmt"
	"math"
	"slices"
)

// Memory chooses the memory and sets it up. Strategies other than tips have a table of their own.
type Memory struct {
	Strategy  string  `toml:"strategy"`
	K         int     `toml:"k"`
	Threshold float64 `toml:"threshold"`
	Capacity  int     `toml:"capacity"`
	Keep      string  `toml:"keep"`
	Explore   float64 `toml:"explore"`
	Control   float64 `toml:"control"`
	Embedder  string  `toml:"embedder"`
	URL       string  `toml:"url"`
	Model     string  `toml:"model"`

	Rememberer Rememberer `toml:"rememberer"`
	JitRL      JitRL      `toml:"jitrl"`
	Memento    Memento    `toml:"memento"`
	UMem       UMem       `toml:"umem"`
	MemSifter  MemSifter  `toml:"memsifter"`
	Gated      Gated      `toml:"gated"`
	Reflexion  Reflexion  `toml:"reflexion"`
	HTTP       MemoryHTTP `toml:"http"`
}

// Rememberer configures REMEMBERER: Q-values of the actions in a state.
type Rememberer struct {
	Actions  int     `toml:"actions"`
	Discount float64 `toml:"discount"`
	Horizon  int     `toml:"horizon"`
	Rate     float64 `toml:"rate"`
	Baseline float64 `toml:"baseline"`
}

// JitRL configures JitRL: the choice among the policy's proposals.
type JitRL struct {
	Candidates int     `toml:"candidates"`
	Neighbours int     `toml:"neighbours"`
	Threshold  float64 `toml:"threshold"`
	Discount   float64 `toml:"discount"`
	Beta       float64 `toml:"beta"`
	Explore    float64 `toml:"explore"`
	Bonus      float64 `toml:"bonus"`
}

// Memento configures Memento: a soft Q over cases.
type Memento struct {
	Candidates  int     `toml:"candidates"`
	Temperature float64 `toml:"temperature"`
	Rate        float64 `toml:"rate"`
	Discount    float64 `toml:"discount"`
}

// UMem configures U-Mem: Thompson sampling over tips.
type UMem struct {
	Weight float64 `toml:"weight"`
	Noise  float64 `toml:"noise"`
	Floor  float64 `toml:"floor"`
	Greedy bool    `toml:"greedy"`
}

// MemSifter configures MemSifter: a ranking by outcomes.
type MemSifter struct {
	Prefilter int     `toml:"prefilter"`
	Walks     bool    `toml:"walks"`
	Prior     float64 `toml:"prior"`
}

// Gated configures Learn to Memorize: a learnt mixture of similarity and recency.
type Gated struct {
	Powers int     `toml:"powers"`
	Hidden int     `toml:"hidden"`
	Rate   float64 `toml:"rate"`
	Epochs int     `toml:"epochs"`
	Margin string  `toml:"margin"`
	Decay  float64 `toml:"decay"`
}

// Reflexion configures Reflexion: the last reflections on a task.
type Reflexion struct {
	Window int `toml:"window"`
}

// MemoryHTTP configures a memory in another process. If it needs a bearer token, set EMPO2_MEMORY_KEY.
type MemoryHTTP struct {
	URL            string  `toml:"url"`
	TimeoutSeconds float64 `toml:"timeout_seconds"`
}

// strategyNames are the values of memory.strategy that have a table of their own.
var strategyNames = []string{"rememberer", "jitrl", "memento", "umem", "memsifter", "gated", "reflexion", "http"}

// HasMemory reports whether the run has a memory.
func (c Config) HasMemory() bool { return c.Algorithm.Name != "grpo" && c.Memory.Strategy != "none" }

// Reflects reports whether the policy writes tips: the run has a memory that stores them.
func (c Config) Reflects() bool {
	switch c.Memory.Strategy {
	case "rememberer", "jitrl", "memento":
		return false
	case "memsifter":
		return c.HasMemory() && !c.Memory.MemSifter.Walks
	}
	return c.HasMemory()
}

// Embeds reports whether the memory compares states by their vectors.
func (c Config) Embeds() bool {
	switch c.Memory.Strategy {
	case "jitrl", "reflexion", "http", "none":
		return false
	}
	return c.HasMemory()
}

func memoryRules(c Config) []rule {
	m := c.Memory
	control := int(math.Round(m.Control * float64(c.Algorithm.GroupSize)))
	return append(strategyRules(m),
		oneOf("memory.strategy", m.Strategy, append([]string{"tips", "credit", "none"}, strategyNames...)...),
		between("memory.k", float64(m.K), 1, 1000),
		between("memory.threshold", m.Threshold, -1, 1),
		between("memory.capacity", float64(m.Capacity), 1, 1e7),
		oneOf("memory.keep", m.Keep, "all", "latest"),
		between("memory.explore", m.Explore, 0, 1),
		between("memory.control", m.Control, 0, 1),
		rule{"memory.control", m.Control == 0 || control >= 1 && control < c.Algorithm.GroupSize,
			fmt.Sprintf("gives %d of the %d episodes of a group no memory", control, c.Algorithm.GroupSize),
			"at least one episode with memory and one without: change it, or algorithm.group_size"},
		oneOf("memory.embedder", m.Embedder, "ngram", "openai", "ollama"),
		rule{"memory.strategy", m.Strategy != "none" || c.Algorithm.Name != "empo2",
			"none leaves empo2 without the memory that it trains with", `algorithm.name = "grpo"`},
		rule{"memory.strategy", m.Strategy != "jitrl" || c.Algorithm.Name != "empo2",
			"jitrl changes the choice among actions, so what was sampled is not the policy's own, and cannot be trained on",
			`algorithm.name = "adapt", or a strategy that shows tips`},
		rule{"memory.http.url", m.Strategy != "http" || m.HTTP.URL != "", "is empty",
			`for example url = "http://127.0.0.1:8100"`},
		optionalAddress("memory.http.url", m.HTTP.URL),
		rule{"rollout.max_staleness", m.Strategy != "http" || !c.HasMemory() || c.Rollout.MaxStaleness == 0,
			"a step that is sampled ahead sees tips that are not committed yet, which a memory over HTTP cannot show",
			"leave it at 0, or choose another memory.strategy"},
		between("novelty.weight", c.Novelty.Weight, 0, maxFactor),
		oneOf("novelty.source", c.Novelty.Source, "tips", "states", "distinct"),
		between("novelty.cap", float64(c.Novelty.Cap), 0, 1e9),
		oneOf("reflection.by", c.Reflection.By, "policy", "base"),
		between("reflection.earlier_tips", float64(c.Reflection.EarlierTips), 0, 1000),
		between("reflection.temperature", c.Reflection.Temperature, 0, 10),
		between("reflection.max_tokens", float64(c.Reflection.MaxTokens), 1, 1e6),
	)
}

// strategyRules are the rules of the strategies' own tables.
func strategyRules(m Memory) []rule {
	return []rule{
		between("memory.rememberer.actions", float64(m.Rememberer.Actions), 1, 1e4),
		between("memory.rememberer.discount", m.Rememberer.Discount, 0, 1),
		between("memory.rememberer.horizon", float64(m.Rememberer.Horizon), 0, 1e6),
		between("memory.rememberer.rate", m.Rememberer.Rate, 0, 1),
		between("memory.rememberer.baseline", m.Rememberer.Baseline, -maxFactor, maxFactor),
		between("memory.jitrl.candidates", float64(m.JitRL.Candidates), 1, 64),
		between("memory.jitrl.neighbours", float64(m.JitRL.Neighbours), 1, 1e4),
		between("memory.jitrl.threshold", m.JitRL.Threshold, 0, 1),
		between("memory.jitrl.discount", m.JitRL.Discount, 0, 1),
		between("memory.jitrl.beta", m.JitRL.Beta, 0, 1e3),
		between("memory.jitrl.explore", m.JitRL.Explore, 0, 1),
		between("memory.jitrl.bonus", m.JitRL.Bonus, 0, maxFactor),
		between("memory.memento.candidates", float64(m.Memento.Candidates), 1, 1e4),
		{"memory.memento.candidates", m.Strategy != "memento" || m.Memento.Candidates >= m.K,
			fmt.Sprintf("%d is less than memory.k = %d", m.Memento.Candidates, m.K), "at least memory.k"},
		between("memory.memento.temperature", m.Memento.Temperature, 0, maxFactor),
		between("memory.memento.rate", m.Memento.Rate, 0, 1),
		between("memory.memento.discount", m.Memento.Discount, 0, 1),
		between("memory.umem.weight", m.UMem.Weight, 0, 1),
		positive("memory.umem.noise", m.UMem.Noise, maxFactor),
		between("memory.umem.floor", m.UMem.Floor, 0, maxFactor),
		between("memory.memsifter.prefilter", float64(m.MemSifter.Prefilter), 1, 1e4),
		{"memory.memsifter.prefilter", m.Strategy != "memsifter" || m.MemSifter.Prefilter >= m.K,
			fmt.Sprintf("%d is less than memory.k = %d", m.MemSifter.Prefilter, m.K), "at least memory.k"},
		between("memory.memsifter.prior", m.MemSifter.Prior, -maxFactor, maxFactor),
		between("memory.gated.powers", float64(m.Gated.Powers), 0, 16),
		between("memory.gated.hidden", float64(m.Gated.Hidden), 0, 1024),
		positive("memory.gated.rate", m.Gated.Rate, 100),
		between("memory.gated.epochs", float64(m.Gated.Epochs), 1, 1000),
		oneOf("memory.gated.margin", m.Gated.Margin, "linear", "sigmoid", "logistic"),
		between("memory.gated.decay", m.Gated.Decay, 0, 1),
		{"memory.k", m.Strategy != "gated" || m.K >= 2, "gated learns from the order of the shown tips: one has no order",
			"k = 2 or more"},
		between("memory.reflexion.window", float64(m.Reflexion.Window), 0, 1000),
		duration("memory.http.timeout_seconds", m.HTTP.TimeoutSeconds),
	}
}

// idleMemory lists the keys of the memory that have no effect under the other settings.
func idleMemory(c Config, when func(cond bool, why string, keys ...string)) {
	m := c.Memory
	why := fmt.Sprintf("memory.strategy is %q", m.Strategy)
	for _, name := range strategyNames {
		when(m.Strategy != name, why, "memory."+name+".")
	}
	when(m.Strategy == "none", why+": there is no memory",
		"memory.k", "memory.keep", "memory.capacity", "memory.threshold",
		"memory.control")
	when(m.Strategy == "jitrl", why+", which shows no tips", "memory.k", "memory.keep")
	when(m.Strategy == "reflexion", why+", which has a window", "memory.k")
	when(m.Strategy == "http", why+", which decides itself", "memory.capacity")
	when(!c.Embeds(), why+", which compares no vectors",
		"memory.threshold", "memory.embedder", "memory.url", "memory.model")
	when(!c.Reflects(), why+", which stores no tips that the policy writes", "reflection.")
	when(m.Strategy != "tips", why, "novelty.source", "novelty.cap", "memory.explore")
	when(c.Algorithm.Name != "adapt", fmt.Sprintf("algorithm.name is %q: algorithm.memory_probability says it",
		c.Algorithm.Name), "memory.control")
	when(!slices.Contains([]string{"credit", "umem", "memsifter", "http"}, m.Strategy),
		why+", which does not measure what a tip is worth", "memory.control")
	when(m.UMem.Weight == 0, "memory.umem.weight is 0", "memory.umem.noise", "memory.umem.floor", "memory.umem.greedy")
	when(m.Memento.Temperature == 0, "memory.memento.temperature is 0: nothing is learnt about cases",
		"memory.memento.rate", "memory.memento.discount", "memory.memento.candidates")
	when(m.JitRL.Beta == 0, "memory.jitrl.beta is 0", "memory.jitrl.explore", "memory.jitrl.bonus",
		"memory.jitrl.candidates", "memory.jitrl.neighbours", "memory.jitrl.discount")
	when(m.JitRL.Explore == 0, "memory.jitrl.explore is 0", "memory.jitrl.bonus")
	when(m.Embedder == "ngram", `memory.embedder is "ngram"`, "memory.url", "memory.model")
}
