package config

import (
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Check returns an error for a value out of range or a contradiction. c must be
// derived. Unlike loading, it does not look at keys that have no effect.
func Check(c Config) error { return check(c, c, nil, Machine{}) }

// check returns an error for a value out of range, a contradiction, or a key
// without effect that the user set to another value than its default. c is
// derived. base holds the defaults and the profile. given maps each key that the
// user wrote to its place, for example "config.toml:12".
func check(c, base Config, given map[string]string, m Machine) error {
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
	return checkIneffective(c, base, given, place, m)
}

// maxFactor bounds the factors of the loss, so that no product of them overflows
// float32, in which the trainer computes.
const maxFactor = 1e6

// maxAlpha is the largest alpha that the trainer accepts.
const maxAlpha = 999999

// A rule is a condition on one key, and the error if it does not hold.
type rule struct {
	key       string
	ok        bool
	msg, hint string
}

func between(key string, v, lo, hi float64) rule {
	ok := v >= lo && v <= hi // false for NaN
	return rule{key, ok, fmt.Sprintf("%g is out of range", v), fmt.Sprintf("a number from %g to %g", lo, hi)}
}

// positive requires a number above 0, up to hi.
func positive(key string, v, hi float64) rule {
	return rule{key, v > 0 && v <= hi, fmt.Sprintf("%g is out of range", v),
		fmt.Sprintf("a number above 0, up to %g", hi)}
}

// duration requires a deadline in seconds. A millisecond is the shortest one
// that can be kept. The longest one, eleven days, cannot overflow.
func duration(key string, v float64) rule {
	r := between(key, v, 0.001, 1e6)
	r.hint = "a number of seconds from 0.001 to 1000000"
	return r
}

func oneOf(key, v string, valid ...string) rule {
	hint := "one of " + strings.Join(valid, ", ")
	return rule{key, slices.Contains(valid, v), fmt.Sprintf("unknown value %q", v), hint}
}

// oneOfOrAuto is oneOf for a derived key: auto is valid in a file, and replaced
// before the check.
func oneOfOrAuto(key, v string, valid ...string) rule {
	r := oneOf(key, v, valid...)
	r.hint = "auto, or " + r.hint
	return r
}

func rules(c Config) []rule {
	return slices.Concat(runRules(c), pathRules(c), algorithmRules(c.Algorithm), rolloutRules(c), lossRules(c.Loss),
		optimizerRules(c.Optimizer), divergenceRules(c.Divergence), memoryRules(c), evalRules(c.Eval),
		trainerRules(c.Trainer),
		environmentRules(c), samplerRules(c), contradictions(c))
}

// isAddress reports whether a text is a host and a port.
func isAddress(text string) bool {
	host, port, err := net.SplitHostPort(text)
	_, wrong := strconv.ParseUint(port, 10, 16)
	return err == nil && wrong == nil && !strings.ContainsAny(host, " /@")
}

// maxName is the largest run.name in bytes. Servers get it with a prefix and the
// version.
const maxName = 200

func runRules(c Config) []rule {
	name := c.Run.Name
	isName := name != "" && !strings.ContainsAny(name, "/\\") && name != "." && name != ".." &&
		!strings.ContainsFunc(name, unicode.IsControl) && !strings.HasPrefix(name, "-") && strings.TrimSpace(name) == name
	return []rule{
		{"run.name", isName, fmt.Sprintf("%q is not a folder name", name),
			"letters, digits, '_' and, not in front, '-'"},
		{"run.name", !strings.HasPrefix(name, "."), fmt.Sprintf("%q begins with a dot: such folders are hidden", name),
			"begin with a letter or a digit"},
		{"run.name", len(name) <= maxName, fmt.Sprintf("%.20s… is too long for a folder name", name),
			fmt.Sprintf("at most %d bytes", maxName)},
		{"run.dir", c.Run.Dir != "", "is empty", `for example dir = "runs"`},
		// TOML has no larger number, and a negative one becomes one that is larger.
		{"run.seed", c.Run.Seed <= math.MaxInt64, "is out of range", "a whole number, 0 or more"},
		between("run.steps", float64(c.Run.Steps), 0, 1e9),
		between("run.max_seconds", c.Run.MaxSeconds, 0, 1e9),
		between("run.stall_minutes", c.Run.StallMinutes, 0, 1e6),
		between("run.keep_checkpoints", float64(c.Run.KeepCheckpoints), 1, 1e6),
		between("run.keep_episodes", float64(c.Run.KeepEpisodes), 0, 1e9),
		oneOf("run.metric_names", c.Run.MetricNames, "trl", "verl", "prime-rl", "empo2"),
		{"run.prometheus", c.Run.Prometheus == "" || isAddress(c.Run.Prometheus),
			fmt.Sprintf("%q is not an address", c.Run.Prometheus), `host and port, for example "127.0.0.1:9464"`},
		{"prompt.template", c.Prompt.Template != "", "is empty", "plain, recipe, or the path of a template file"},
	}
}

func algorithmRules(a Algorithm) []rule {
	return []rule{
		oneOf("algorithm.name", a.Name, "empo2", "grpo", "adapt"),
		between("algorithm.groups", float64(a.Groups), 1, 1e5),
		between("algorithm.group_size", float64(a.GroupSize), 2, 1e5),
		oneOf("algorithm.mode_draw", a.ModeDraw, "step", "group", "episode"),
		between("algorithm.memory_probability", a.MemoryProbability, 0, 1),
		between("algorithm.memory_probability_min", a.MemoryProbabilityMin, 0.001, 1),
		between("algorithm.off_policy_probability", a.OffPolicyProbability, 0, 1),
		between("algorithm.generation_batches", float64(a.GenerationBatches), 1, 1000),
		oneOf("algorithm.estimator", a.Estimator, "grpo", "rloo", "opo", "reinforce_plus_plus",
			"reinforce_plus_plus_baseline", "maxrl", "gigpo"),
		between("algorithm.step_discount", a.StepDiscount, 0, 1),
		between("algorithm.step_weight", a.StepWeight, 0, maxFactor),
		oneOf("algorithm.baseline", a.Baseline, "group", "tip-free"),
	}
}

func lossRules(l Loss) []rule {
	return []rule{
		oneOf("loss.surrogate", l.Surrogate, "clip", "cispo", "sapo", "dppo", "gspo"),
		between("loss.clip_low", l.ClipLow, 0, 1),
		between("loss.clip_high", l.ClipHigh, 0, maxFactor),
		{"loss.dual_clip", l.DualClip == 0 || l.DualClip > 1 && l.DualClip <= maxFactor,
			fmt.Sprintf("%g is out of range", l.DualClip), fmt.Sprintf("0 (off) or a number above 1, up to %g", maxFactor)},
		{"loss.logprob_floor", l.LogprobFloor <= 0 && l.LogprobFloor >= -1e30,
			fmt.Sprintf("%g is not a log-prob", l.LogprobFloor), "0 or below; -1e30 switches the mask off"},
		oneOf("loss.off_policy_logprobs", l.OffPolicyLogprobs, "tips", "no_tips"),
		between("loss.kl", l.KL, 0, maxFactor),
		between("loss.kl_sampled", l.KLSampled, 0, maxFactor),
		oneOf("loss.kl_estimator", l.KLEstimator, "exact", "k3"),
		between("loss.entropy", l.Entropy, 0, maxFactor),
		{"loss.mismatch_cap", l.MismatchCap == 0 || l.MismatchCap >= 1 && l.MismatchCap <= maxFactor,
			fmt.Sprintf("%g is out of range: below 1 it would reduce the weight of every token", l.MismatchCap),
			fmt.Sprintf("0 (off) or a number from 1 to %g", maxFactor)},
		oneOf("loss.mismatch_mode", l.MismatchMode, "token_truncate", "token_mask", "sequence_truncate", "sequence_mask",
			"geometric_truncate", "geometric_mask"),
		between("loss.mismatch_floor", l.MismatchFloor, 0, 1),
		positive("loss.mismatch_tolerance", l.MismatchTolerance, 1e3),
		oneOf("loss.average", l.Average, "episode", "token", "constant", "prompt"),
		between("loss.average_length", float64(l.AverageLength), 1, 1e9),
		between("loss.minibatch", float64(l.MiniBatch), 1, 1e6),
		between("loss.epochs", float64(l.Epochs), 1, 100),
	}
}

func optimizerRules(o Optimizer) []rule {
	return []rule{
		positive("optimizer.learning_rate", o.LearningRate, 1),
		oneOf("optimizer.schedule", o.Schedule, "constant", "linear", "cosine"),
		between("optimizer.warmup_steps", float64(o.WarmupSteps), 0, 1e9),
		between("optimizer.beta1", o.Beta1, 0, 0.999999),
		between("optimizer.beta2", o.Beta2, 0, 0.999999),
		positive("optimizer.eps", o.Eps, 1),
		between("optimizer.weight_decay", o.WeightDecay, 0, 1e3),
		between("optimizer.grad_clip_norm", o.GradClipNorm, 0, maxFactor),
	}
}

func divergenceRules(d Divergence) []rule {
	return []rule{
		{"divergence.grad_norm", d.GradNorm == 0 || d.GradNorm > 1 && d.GradNorm <= 1e9,
			fmt.Sprintf("%g is out of range", d.GradNorm), "0 (off) or a number above 1, up to 1e+09"},
		between("divergence.kl", d.KL, 0, maxFactor),
		between("divergence.entropy", d.Entropy, 0, 100),
		between("divergence.patience", float64(d.Patience), 0, 1e9),
	}
}

// rolloutRules are the rules of [rollout]. Training needs samples from the
// policy's own distribution, which temperature, top_p and top_k change.
func rolloutRules(c Config) []rule {
	r, adapt := c.Rollout, c.Algorithm.Name == "adapt"
	out := []rule{
		{"rollout.temperature", r.Temperature == 1 || adapt && r.Temperature >= 0 && r.Temperature <= 10,
			fmt.Sprintf("%g: training needs log-probs at temperature 1", r.Temperature),
			"leave it at 1.0; eval.temperature is free"},
		{"rollout.top_p", r.TopP == 1 || adapt && r.TopP > 0 && r.TopP < 1,
			fmt.Sprintf("%g: training needs samples from the whole distribution", r.TopP),
			"leave it at 1.0; eval.top_p is free"},
		{"rollout.top_k", r.TopK == 0 || adapt && r.TopK > 0,
			fmt.Sprintf("%d: training needs samples from the whole distribution", r.TopK),
			"leave it at 0; eval.top_k is free"},
		{"rollout.stop", !slices.Contains(r.Stop, ""), "contains an empty string", `for example stop = ["\n"]`},
		between("rollout.max_turns", float64(r.MaxTurns), 1, 1e6),
		between("rollout.max_tokens", float64(r.MaxTokens), 1, 1e6),
		between("rollout.overlong_buffer", float64(r.OverlongBuffer), 0, float64(r.MaxTokens)),
		between("rollout.overlong_factor", r.OverlongFactor, 0, maxFactor),
		between("rollout.concurrency", float64(r.Concurrency), 1, 1e5),
		between("rollout.retries", float64(r.Retries), 0, 100),
		between("rollout.max_staleness", float64(r.MaxStaleness), 0, 16),
		between("rollout.quorum", r.Quorum, 0.5, 1),
		duration("rollout.deadline_seconds", r.DeadlineSeconds),
	}
	return out
}

func evalRules(e Eval) []rule {
	return []rule{
		between("eval.every", float64(e.Every), 0, 1e9),
		between("eval.episodes", float64(e.Episodes), 1, 1e7),
		between("eval.final_episodes", float64(e.FinalEpisodes), 1, 1e7),
		between("eval.temperature", e.Temperature, 0, 10),
		{"eval.top_p", e.TopP > 0 && e.TopP <= 1, fmt.Sprintf("%g is out of range", e.TopP),
			"a number above 0, up to 1 (off)"},
		between("eval.top_k", float64(e.TopK), 0, 1e6),
	}
}

// contradictions are the rules that relate several keys.
func contradictions(c Config) []rule {
	a := c.Algorithm
	mixed := a.Name == "empo2" && a.ModeDraw == "episode"
	withTips := int(math.Round(a.MemoryProbability * float64(a.GroupSize))) // episodes of a mixed group
	server := c.Memory.Embedder != "ngram" && c.Embeds()
	return []rule{
		{"algorithm.baseline", a.Name != "empo2" || a.Baseline != "tip-free" || a.ModeDraw == "episode",
			fmt.Sprintf("tip-free needs mixed groups, but mode_draw is %q", a.ModeDraw),
			`baseline = "group", or mode_draw = "episode"`},
		{"algorithm.estimator", a.Estimator == "grpo" || a.Estimator == "gigpo" || a.Name != "empo2" || a.Baseline == "group",
			a.Estimator + " has a baseline of its own, but algorithm.baseline is \"tip-free\"", `baseline = "group"`},
		{"loss.average", c.Loss.Surrogate != "gspo" || c.Loss.Average == "episode",
			fmt.Sprintf("%s weighs tokens, but loss.surrogate = \"gspo\" has one ratio for each episode", c.Loss.Average),
			`average = "episode", or another surrogate`},
		{"algorithm.generation_batches", a.GenerationBatches == 1 || !c.Loss.FlatGroups,
			"above 1 drops groups of equal returns, but loss.flat_groups keeps them", "leave it at 1, or flat_groups at false"},
		{"algorithm.generation_batches", a.GenerationBatches == 1 || c.Rollout.MaxStaleness == 0,
			"above 1 adds groups to a step while it is sampled, but rollout.max_staleness needs its tasks before",
			"leave one of them at its default"},
		{"algorithm.memory_anneal", !a.MemoryAnneal || c.Rollout.MaxStaleness == 0,
			"needs the returns of the step before, which with rollout.max_staleness may still be trained",
			"leave one of them at its default"},
		{"algorithm.memory_probability_min", !a.MemoryAnneal || a.MemoryProbabilityMin <= a.MemoryProbability,
			fmt.Sprintf("%g is above memory_probability = %g", a.MemoryProbabilityMin, a.MemoryProbability),
			"a lower one"},
		{"algorithm.estimator", a.Estimator != "maxrl" || c.Rollout.OverlongBuffer == 0,
			"maxrl needs returns of 0 and above, but rollout.overlong_buffer makes some negative",
			"overlong_buffer = 0, or another estimator"},
		{"algorithm.memory_probability", !mixed || a.Baseline != "tip-free" || withTips < a.GroupSize,
			"leaves no episode without tips for the tip-free baseline", "lower memory_probability or raise group_size"},
		{"algorithm.memory_probability", !mixed || a.MemoryProbability == 0 || withTips >= 1,
			"gives no episode of a group tips", "raise memory_probability or group_size"},
		{"run.repeatable", !c.Run.Repeatable || c.Sampler.Backend == "llamacpp",
			fmt.Sprintf("%s computes the requests that it has at a time together, which changes the last bits of log-probs",
				c.Sampler.Backend), `sampler.backend = "llamacpp", or leave it at false`},
		{"rollout.max_staleness", !c.Run.Repeatable || c.Rollout.MaxStaleness == 0,
			"run.repeatable is true, but the version that samples a turn then depends on when the one before is trained",
			"leave it at 0, or run.repeatable at false"},
		{"rollout.quorum", !c.Run.Repeatable || c.Rollout.Quorum == 1,
			"run.repeatable is true, but which episodes are past their deadline depends on the machine",
			"leave it at 1, or run.repeatable at false"},
		{"rollout.max_staleness", !c.sleeps() || c.Rollout.MaxStaleness == 0,
			fmt.Sprintf("the server sleeps while the trainer works (sampler.%s.sleep), so it cannot sample then",
				c.Sampler.Backend),
			"leave it at 0, or give server and trainer a GPU each and set sampler." + c.Sampler.Backend + ".sleep = false"},
		{"run.repeatable", !c.Run.Repeatable || c.Trainer.URL == "", "a trainer elsewhere may compute in another order",
			"leave trainer.url empty, or leave it at false"},
		{"memory.url", !server || c.Memory.URL != "", "is empty, but the embedder is a server",
			`for example url = "http://127.0.0.1:11434"`},
		optionalAddress("memory.url", c.Memory.URL),
		{"memory.model", !server || c.Memory.Model != "", "is empty, but the embedder is a server",
			"the name of its embedding model"},
		{"optimizer.warmup_steps", c.Optimizer.WarmupSteps == 0 || c.Optimizer.WarmupSteps < c.Run.Steps,
			fmt.Sprintf("%d is not less than run.steps = %d", c.Optimizer.WarmupSteps, c.Run.Steps),
			"warm up for 5 to 10 % of the steps"},
	}
}

// sleeps reports whether the server frees its memory for the trainer.
func (c Config) sleeps() bool {
	return c.Sampler.Backend == "vllm" && c.Sampler.VLLM.Sleep || c.Sampler.Backend == "sglang" && c.Sampler.SGLang.Sleep
}
