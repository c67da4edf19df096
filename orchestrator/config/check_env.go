package config

import (
	"cmp"
	"slices"
)

// environments are the values of env.name. Each has a table of the same name.
var environments = []string{"vault", "scienceworld", "webshop", "remote", "agentgym", "openenv", "ors"}

// environmentRules are the rules of [env] and its tables.
func environmentRules(c Config) []rule {
	v, s, w := c.Env.Vault, c.Env.ScienceWorld, c.Env.WebShop
	return append([]rule{
		oneOf("env.name", c.Env.Name, environments...),
		between("env.scienceworld.train_variations", float64(s.TrainVariations), 0, 1e6),
		between("env.scienceworld.eval_variations", float64(s.EvalVariations), 0, 1e6),
		between("env.scienceworld.step_limit", float64(s.StepLimit), 1, 1e6),
		oneOf("env.scienceworld.reads", s.Reads, "full", "lazy"),
		oneOf("env.scienceworld.isolation", s.Isolation, "loader", "jvm"),
		oneOf("env.scienceworld.actions", s.Actions, "raw", "closest", "closest-recipe"),
		between("env.scienceworld.concurrency", float64(s.Concurrency), 1, 1e5),
		oneOf("env.webshop.mode", w.Mode, "text", "text_rich"),
		oneOf("env.webshop.goals", w.Goals, "synthetic", "human"),
		oneOf("env.webshop.seed_mode", w.SeedMode, "verl", "princeton"),
		oneOf("env.webshop.reward", w.Reward, "raw", "success"),
		between("env.webshop.products", float64(w.Products), 0, 1e8),
		between("env.webshop.max_turns", float64(w.MaxTurns), 0, 1e6),
		between("env.remote.train_tasks", float64(c.Env.Remote.TrainTasks), 1, 1e7),
		between("env.remote.test_tasks", float64(c.Env.Remote.TestTasks), 0, 1e7),
		{"env.vault.houses", len(v.Houses) > 0, "no house", "for example houses = [1]"},
		{"env.vault.houses", !repeats(v.Houses), "a house is given twice", "different numbers, for example houses = [1, 2]"},
		between("env.vault.doors", float64(v.Doors), 2, 8),
		between("env.vault.levers", float64(v.Levers), 2, 12),
		oneOf("env.vault.score", v.Score, "sparse", "partial"),
		between("env.vault.train_variations", float64(v.TrainVariations), 1, 1e6),
		between("env.vault.test_variations", float64(v.TestVariations), 0, 1e6),
		duration("env.agentgym.timeout_seconds", c.Env.AgentGym.TimeoutSeconds),
		between("env.openenv.concurrency", float64(c.Env.OpenEnv.Concurrency), 1, 1e5),
		duration("env.openenv.timeout_seconds", c.Env.OpenEnv.TimeoutSeconds),
		duration("env.ors.timeout_seconds", c.Env.ORS.TimeoutSeconds),
		{"env.ors.input", c.Env.ORS.Input == "" || c.Env.ORS.Tool != "", "has no effect without env.ors.tool",
			"set env.ors.tool too"},
		optionalAddress("env.remote.url", c.Env.Remote.URL),
		optionalAddress("env.agentgym.url", c.Env.AgentGym.URL),
		optionalAddress("env.openenv.url", c.Env.OpenEnv.URL),
		optionalAddress("env.ors.url", c.Env.ORS.URL),
	}, missing(c)...)
}

// repeats reports whether a value occurs twice.
func repeats[T cmp.Ordered](values []T) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(values)))) < len(values)
}

// missing are the rules for keys that an environment cannot do without.
func missing(c Config) []rule {
	need := func(env, key, value, hint string) rule {
		return rule{"env." + env + "." + key, c.Env.Name != env || value != "", "is empty", hint}
	}
	return []rule{
		need("webshop", "data", c.Env.WebShop.Data, "the folder of the original's data files"),
		need("remote", "url", c.Env.Remote.URL, `for example "http://127.0.0.1:8090"`),
		need("agentgym", "url", c.Env.AgentGym.URL, `for example "http://127.0.0.1:36001"`),
		need("agentgym", "dialect", c.Env.AgentGym.Dialect, `which server it is, for example "sciworld" or "webshop"`),
		need("openenv", "url", c.Env.OpenEnv.URL, `for example "http://127.0.0.1:8000"`),
		need("openenv", "train", c.Env.OpenEnv.Train, `seeds, for example "0-99"`),
		need("ors", "url", c.Env.ORS.URL, `for example "http://127.0.0.1:8080"`),
	}
}
