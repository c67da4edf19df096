package config

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Check refuses values out of range, contradictions, and keys that were given
// another value than their default although they have no effect. given maps
// the keys that the user wrote to the place where they stand; nil means that
// all of them came from code.
func Check(c Config, given map[string]string) error {
	place := func(key string) string {
		if p, ok := given[key]; ok && p != "" {
			return p + ": " + key
		}
		return key
	}
	for _, r := range rules(c) {
		if !r.ok {
			return &Error{place(r.key), r.msg, r.hint}
		}
	}
	return checkIneffective(c, given, place)
}

type rule struct {
	key       string
	ok        bool
	msg, hint string
}

func between(key string, v, lo, hi float64) rule {
	hint := fmt.Sprintf("a number from %g to %g", lo, hi)
	if math.IsInf(hi, 1) {
		hint = fmt.Sprintf("%g or more", lo)
	}
	return rule{key, v >= lo && v <= hi && !math.IsInf(v, 0), fmt.Sprintf("%g is out of range", v), hint} // NaN fails both
}

func above(key string, v float64) rule {
	return rule{key, v > 0 && !math.IsInf(v, 0), fmt.Sprintf("%g is out of range", v), "a number above 0"}
}

func oneOf(key, v string, valid ...string) rule {
	return rule{key, slices.Contains(valid, v), fmt.Sprintf("unknown value %q", v), "one of " + strings.Join(valid, ", ")}
}

func rules(c Config) []rule {
	inf := math.Inf(1)
	a := c.Algorithm
	return append([]rule{
		{"run.name", c.Run.Name != "" && !strings.ContainsAny(c.Run.Name, "/\\\x00") && c.Run.Name != "." && c.Run.Name != "..", fmt.Sprintf("%q is not a folder name", c.Run.Name), "letters, digits, '-' and '_'"},
		{"run.dir", c.Run.Dir != "", "is empty", `for example dir = "runs"`},
		between("run.steps", float64(c.Run.Steps), 0, 1e9),
		between("run.minutes", c.Run.Minutes, 0, inf),
		between("run.keep_checkpoints", float64(c.Run.KeepCheckpoints), 1, 1e6),
		{"prompt.template", c.Prompt.Template != "", "is empty", "plain, recipe, or the path of a template file"},
		oneOf("algorithm.name", c.Algorithm.Name, "empo2", "grpo", "adapt"),
		between("algorithm.groups", float64(c.Algorithm.Groups), 1, 1e5),
		between("algorithm.group_size", float64(c.Algorithm.GroupSize), 2, 1e5),
		oneOf("algorithm.mode_draw", c.Algorithm.ModeDraw, "step", "group", "episode"),
		between("algorithm.memory_probability", c.Algorithm.MemoryProbability, 0, 1),
		between("algorithm.off_policy_probability", c.Algorithm.OffPolicyProbability, 0, 1),
		oneOf("algorithm.baseline", c.Algorithm.Baseline, "group", "tip-free"),
		between("loss.clip_low", c.Loss.ClipLow, 0, 1),
		between("loss.clip_high", c.Loss.ClipHigh, 0, inf),
		{"loss.dual_clip", c.Loss.DualClip == 0 || c.Loss.DualClip > 1 && !math.IsInf(c.Loss.DualClip, 0), fmt.Sprintf("%g is out of range", c.Loss.DualClip), "0 (off) or a number above 1"},
		{"loss.logprob_floor", c.Loss.LogprobFloor <= 0 && !math.IsInf(c.Loss.LogprobFloor, 0), fmt.Sprintf("%g is not a log-prob", c.Loss.LogprobFloor), "0 or below; -1e30 switches the mask off"},
		between("loss.kl", c.Loss.KL, 0, inf),
		between("loss.kl_sampled", c.Loss.KLSampled, 0, inf),
		oneOf("loss.kl_estimator", c.Loss.KLEstimator, "exact", "k3"),
		{"loss.mismatch_cap", c.Loss.MismatchCap == 0 || c.Loss.MismatchCap >= 1 && !math.IsInf(c.Loss.MismatchCap, 0), fmt.Sprintf("%g would make every token count less", c.Loss.MismatchCap), "0 (off) or a number from 1"},
		above("loss.mismatch_tolerance", c.Loss.MismatchTolerance),
		oneOf("loss.average", c.Loss.Average, "episode", "token"),
		between("loss.minibatch", float64(c.Loss.MiniBatch), 1, 1e6),
		between("loss.epochs", float64(c.Loss.Epochs), 1, 100),
		above("optimizer.learning_rate", c.Optimizer.LearningRate),
		between("optimizer.beta1", c.Optimizer.Beta1, 0, 0.999999),
		between("optimizer.beta2", c.Optimizer.Beta2, 0, 0.999999),
		above("optimizer.eps", c.Optimizer.Eps),
		between("optimizer.weight_decay", c.Optimizer.WeightDecay, 0, inf),
		between("optimizer.grad_clip_norm", c.Optimizer.GradClipNorm, 0, inf),
		{"rollout.temperature", c.Rollout.Temperature == 1 || a.Name == "adapt" && c.Rollout.Temperature >= 0 && c.Rollout.Temperature <= 10,
			fmt.Sprintf("%g: training needs log-probs at temperature 1", c.Rollout.Temperature), "leave it at 1.0; eval.temperature is free"},
		between("rollout.max_steps", float64(c.Rollout.MaxSteps), 1, 1e6),
		between("rollout.max_tokens", float64(c.Rollout.MaxTokens), 1, 1e6),
		between("rollout.episodes_in_flight", float64(c.Rollout.EpisodesInFlight), 1, 1e5),
		between("rollout.retries", float64(c.Rollout.Retries), 0, 100),
		between("memory.k", float64(c.Memory.K), 1, 1000),
		between("memory.threshold", c.Memory.Threshold, -1, 1),
		between("memory.capacity", float64(c.Memory.Capacity), 1, 1e7),
		oneOf("memory.keep", c.Memory.Keep, "all", "latest"),
		oneOf("memory.embedder", c.Memory.Embedder, "ngram", "openai", "ollama"),
		between("novelty.weight", c.Novelty.Weight, 0, inf),
		oneOf("novelty.source", c.Novelty.Source, "tips", "states"),
		between("novelty.cap", float64(c.Novelty.Cap), 0, 1e9),
		oneOf("reflection.by", c.Reflection.By, "policy", "base"),
		between("reflection.temperature", c.Reflection.Temperature, 0, 10),
		between("reflection.max_tokens", float64(c.Reflection.MaxTokens), 1, 1e6),
		between("eval.every", float64(c.Eval.Every), 0, 1e9),
		between("eval.episodes", float64(c.Eval.Episodes), 1, 1e7),
		between("eval.final_episodes", float64(c.Eval.FinalEpisodes), 1, 1e7),
		between("eval.temperature", c.Eval.Temperature, 0, 10),
		{"trainer.model", c.Trainer.Model != "", "is empty", `"embedded" or a folder in Hugging Face format`},
		between("trainer.rank", float64(c.Trainer.Rank), 1, 4096),
		above("trainer.alpha", c.Trainer.Alpha),
		oneOf("trainer.dtype", c.Trainer.Dtype, "float32", "bfloat16"),
		{"trainer.device", c.Trainer.Device != "", "is empty", `"auto", "cpu", "cuda" or "cuda:0"`},
		between("trainer.threads", float64(c.Trainer.Threads), 0, 1024),
		above("trainer.timeout_seconds", c.Trainer.TimeoutSeconds),
		between("trainer.restarts", float64(c.Trainer.Restarts), 0, 1000),
	}, slices.Concat(environmentRules(c), samplerRules(c), contradictions(c))...)
}

func contradictions(c Config) []rule {
	a := c.Algorithm
	return []rule{
		{"algorithm.baseline", a.Name != "empo2" || a.Baseline != "tip-free" || a.ModeDraw == "episode",
			fmt.Sprintf("tip-free needs mixed groups, but mode_draw is %q", a.ModeDraw), `baseline = "group", or mode_draw = "episode"`},
		{"algorithm.memory_probability", a.Name != "empo2" || a.ModeDraw != "episode" || a.Baseline != "tip-free" || int(math.Round(a.MemoryProbability*float64(a.GroupSize))) < a.GroupSize,
			"leaves no episode without tips for the tip-free baseline", "lower memory_probability or raise group_size"},
		{"algorithm.memory_probability", a.Name != "empo2" || a.ModeDraw != "episode" || a.MemoryProbability == 0 || math.Round(a.MemoryProbability*float64(a.GroupSize)) >= 1,
			"gives no episode of a group tips", "raise memory_probability or group_size"},
		{"memory.url", c.Memory.Embedder == "ngram" || c.Memory.URL != "", "is empty, but the embedder is a server", `for example url = "http://127.0.0.1:11434"`},
		{"memory.model", c.Memory.Embedder == "ngram" || c.Memory.Model != "", "is empty, but the embedder is a server", "the name of its embedding model"},
	}
}

// idle are keys (or tables, ending in ".") that do nothing, and why.
type idle struct {
	why  string
	keys []string
}

// ineffective lists what does nothing under the other settings.
func ineffective(c Config) []idle {
	var out []idle
	when := func(cond bool, why string, keys ...string) {
		if cond {
			out = append(out, idle{why, keys})
		}
	}
	when(c.Algorithm.Name == "grpo", `algorithm.name is "grpo", which has no memory`,
		"memory.", "novelty.", "reflection.", "algorithm.mode_draw", "algorithm.memory_probability",
		"algorithm.off_policy_probability", "algorithm.baseline")
	when(c.Algorithm.Name == "adapt", `algorithm.name is "adapt": nothing is trained and every episode is shown tips`,
		"loss.", "optimizer.", "novelty.", "algorithm.mode_draw", "algorithm.memory_probability", "algorithm.off_policy_probability",
		"algorithm.baseline", "algorithm.normalize_std", "sampler.canary", "sampler.vllm.sleep", "sampler.sglang.sleep", "run.keep_checkpoints", "trainer.")
	when(c.Algorithm.MemoryProbability == 0, "algorithm.memory_probability is 0: no episode is shown tips",
		"memory.", "novelty.", "reflection.", "algorithm.off_policy_probability")
	when(c.Eval.Every == 0, "eval.every is 0: only the final evaluation is made", "eval.episodes")
	for _, name := range environments {
		when(c.Env.Name != name, fmt.Sprintf("env.name is %q, not %q", c.Env.Name, name), "env."+name+".")
	}
	when(c.Loss.KL == 0 && c.Loss.KLSampled == 0, "loss.kl and loss.kl_sampled are 0", "loss.kl_estimator")
	when(c.Novelty.Weight == 0, "novelty.weight is 0", "novelty.source", "novelty.cap")
	idleSampler(c, when)
	when(c.Memory.Embedder == "ngram", `memory.embedder is "ngram"`, "memory.url", "memory.model")
	return out
}

func checkIneffective(c Config, given map[string]string, place func(string) string) error {
	defaults := map[string]string{}
	walk(reflect.ValueOf(Default()), "", func(name, _ string, v reflect.Value) { defaults[name] = format(v) }, nil)
	var found error
	for _, i := range ineffective(c) {
		walk(reflect.ValueOf(c), "", func(name, _ string, v reflect.Value) {
			if _, ok := given[name]; !ok || found != nil || format(v) == defaults[name] || !Matches(name, i.keys) {
				return
			}
			found = &Error{place(name), "has no effect: " + i.why, "remove it, or change the other key"}
		}, nil)
	}
	return found
}

// Matches reports whether a key is one of the patterns: keys, or tables ending
// in a dot.
func Matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return name == p || strings.HasSuffix(p, ".") && strings.HasPrefix(name, p)
	})
}
