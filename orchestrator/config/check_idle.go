package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// idle lists keys without effect, and why. A name that ends in "." is a table.
type idle struct {
	why  string
	keys []string
}

// ineffective lists the keys that have no effect under the other settings.
func ineffective(c Config) []idle {
	var out []idle
	when := func(cond bool, why string, keys ...string) {
		if cond {
			out = append(out, idle{why, keys})
		}
	}
	when(c.Algorithm.Name == "grpo", `algorithm.name is "grpo", which has no memory`,
		"memory.", "novelty.", "reflection.", "algorithm.mode_draw", "algorithm.memory_probability",
		"algorithm.off_policy_probability", "algorithm.baseline", "algorithm.memory_anneal", "loss.off_policy_logprobs")
	when(c.Algorithm.Name == "adapt", `algorithm.name is "adapt": nothing is trained and every episode is shown tips`,
		"loss.", "optimizer.", "novelty.", "algorithm.mode_draw", "algorithm.memory_probability",
		"algorithm.off_policy_probability", "algorithm.baseline", "algorithm.normalize_std", "algorithm.estimator",
		"algorithm.step_discount", "algorithm.step_weight", "algorithm.memory_anneal", "algorithm.generation_batches",
		"rollout.mask_truncated", "rollout.overlong_buffer", "rollout.max_staleness", "sampler.canary_tolerance",
		"sampler.vllm.sleep", "sampler.sglang.sleep",
		"run.keep_checkpoints", "divergence.", "trainer.")
	estimator := fmt.Sprintf("algorithm.estimator is %q", c.Algorithm.Estimator)
	when(c.Algorithm.Estimator != "grpo" && c.Algorithm.Estimator != "gigpo", estimator, "algorithm.normalize_std")
	when(c.Algorithm.Estimator != "gigpo", estimator, "algorithm.step_discount", "algorithm.step_weight")
	when(c.Trainer.URL == "", "trainer.url is empty", "trainer.base_model")
	when(c.Trainer.URL != "", "trainer.url names a trainer that runs already", "trainer.quantize",
		"trainer.micro_batch_tokens", "trainer.device", "trainer.threads", "trainer.gpus", "trainer.parallel")
	when(c.Algorithm.MemoryProbability == 0, "algorithm.memory_probability is 0: no episode is shown tips",
		"memory.", "novelty.", "reflection.", "algorithm.off_policy_probability", "algorithm.memory_anneal",
		"loss.off_policy_logprobs")
	when(c.Algorithm.OffPolicyProbability == 0, "algorithm.off_policy_probability is 0", "loss.off_policy_logprobs")
	when(!c.Algorithm.MemoryAnneal, "algorithm.memory_anneal is false", "algorithm.memory_probability_min")
	when(c.Rollout.OverlongBuffer == 0, "rollout.overlong_buffer is 0", "rollout.overlong_factor")
	when(c.Trainer.GPUs == 1, "trainer.gpus is 1", "trainer.parallel")
	when(!c.NeedsModel(), "empo2 starts neither a trainer nor a server", "run.must_fit")
	when(!c.Run.TensorBoard, "run.tensorboard is false", "run.metric_names")
	when(c.Eval.Every == 0, "eval.every is 0: only the final evaluation is made", "eval.episodes")
	for _, name := range environments {
		when(c.Env.Name != name, fmt.Sprintf("env.name is %q, not %q", c.Env.Name, name), "env."+name+".")
	}
	when(c.Rollout.Quorum == 1, "rollout.quorum is 1: a step waits for all of its episodes", "rollout.deadline_seconds")
	when(c.Loss.MismatchCap == 0, "loss.mismatch_cap is 0", "loss.mismatch_mode", "loss.mismatch_floor")
	when(!strings.HasSuffix(c.Loss.MismatchMode, "_mask"), fmt.Sprintf("loss.mismatch_mode is %q", c.Loss.MismatchMode),
		"loss.mismatch_floor")
	surrogate := fmt.Sprintf("loss.surrogate is %q", c.Loss.Surrogate)
	when(c.Loss.Surrogate != "clip" && c.Loss.Surrogate != "gspo", surrogate, "loss.dual_clip")
	when(c.Loss.Surrogate == "sapo", surrogate, "loss.clip_low", "loss.clip_high")
	when(c.Loss.KL == 0 && c.Loss.KLSampled == 0 && c.Loss.Entropy == 0,
		"loss.kl, loss.kl_sampled and loss.entropy are 0", "loss.flat_groups")
	when(c.Loss.KL == 0 && c.Loss.KLSampled == 0, "loss.kl and loss.kl_sampled are 0", "loss.kl_estimator")
	when(c.Loss.Average != "constant", fmt.Sprintf("loss.average is %q, not \"constant\"", c.Loss.Average),
		"loss.average_length")
	when(c.Novelty.Weight == 0, "novelty.weight is 0", "novelty.source", "novelty.cap")
	idleSampler(c, when)
	idleMemory(c, when)
	return out
}

// checkIneffective returns an error for a key that has no effect.
func checkIneffective(c, base Config, given map[string]string, place func(string) string, m Machine) error {
	found := ineffectiveKeys(c, base, given, m)
	for _, name := range slices.Sorted(maps.Keys(found)) {
		return noEffect(place(name), found[name])
	}
	return nil
}

func noEffect(place, why string) error {
	return &Error{place, "has no effect: " + why, "remove it, or change the other key"}
}

// ineffectiveKeys returns the given keys that have no effect, with the reason. A key may have the value that it would
// also have if the user had left it out.
func ineffectiveKeys(c, base Config, given map[string]string, m Machine) map[string]string {
	defaults, found := Values(base), map[string]string{}
	for _, i := range ineffective(c) {
		walk(reflect.ValueOf(c), "", func(name string, v reflect.Value) {
			if _, ok := given[name]; !ok || found[name] != "" || !Matches(name, i.keys) {
				return
			}
			value := format(v)
			if value == defaults[name] || slices.Contains(derivedKeys, name) && value == underived(c, base, name, m) {
				return
			}
			found[name] = i.why
		}, nil)
	}
	return found
}

// Matches reports whether a key matches one of the patterns. A pattern is a key,
// or a table that ends in a dot.
func Matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return name == p || strings.HasSuffix(p, ".") && strings.HasPrefix(name, p)
	})
}
