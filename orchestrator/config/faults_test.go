package config

import (
	"strings"
	"testing"
)

// Values that would fail only later are refused by their key.
func TestValuesThatWouldFailLater(t *testing.T) {
	f := func(set, want string) {
		t.Helper()
		_, err := Source{Profile: Demo, Sets: []string{set}}.Load()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	f("env.vault.houses=[1, 1]", "a house is given twice")
	f("env.vault.houses=[2, 1]", "")
	f("trainer.device=tpu", `unknown value "tpu"`)
	f("trainer.device=", `unknown value ""`)
	f("trainer.device=cuda:1", "")
	f("sampler.backend=vllm", "")
}

// Pairs of keys that contradict each other are refused with the reason.
func TestMethodsThatExcludeEachOther(t *testing.T) {
	f := func(want string, sets ...string) {
		t.Helper()
		_, err := Source{Profile: Demo, Sets: sets}.Load()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", sets, err, want)
		}
	}
	f("", "loss.surrogate=gspo", "loss.clip_low=3e-4", "loss.dual_clip=5.0")
	f("loss.average: token weighs tokens", "loss.surrogate=gspo", "loss.average=token")
	f("loss.average: prompt weighs tokens", "loss.surrogate=gspo", "loss.average=prompt")
	f("", "algorithm.generation_batches=10")
	f("but loss.flat_groups keeps them", "algorithm.generation_batches=10", "loss.flat_groups=true")
	f("rollout.max_staleness needs its tasks before", "algorithm.generation_batches=10", "rollout.max_staleness=1")
	f("generation_batches: 0 is out of range", "algorithm.generation_batches=0")
	f("", "algorithm.memory_anneal=true", "algorithm.memory_probability_min=0.2")
	f("0.9 is above memory_probability", "algorithm.memory_anneal=true", "algorithm.memory_probability_min=0.9")
	f("needs the returns of the step before", "algorithm.memory_anneal=true", "rollout.max_staleness=1")
	f("memory_anneal is false", "algorithm.memory_probability_min=0.2")
	f(`"grpo", which has no memory`, "algorithm.memory_anneal=true", "algorithm.name=grpo")
	f("", "rollout.overlong_buffer=4", "rollout.overlong_factor=10.0")
	f("overlong_buffer: 9 is out of range", "rollout.overlong_buffer=9") // of 8 tokens
	f("rollout.overlong_buffer is 0", "rollout.overlong_factor=2.0")
	f("maxrl needs returns of 0 and above", "algorithm.estimator=maxrl", "algorithm.baseline=group",
		"rollout.overlong_buffer=4")
	f("", "loss.off_policy_logprobs=no_tips")
	f(`unknown value "none"`, "loss.off_policy_logprobs=none")
	f("off_policy_probability is 0", "loss.off_policy_logprobs=no_tips", "algorithm.off_policy_probability=0.0")
	f("", "reflection.earlier_tips=3")
	f("has no memory", "reflection.earlier_tips=3", "algorithm.name=grpo")
}

// A repeatable run computes one request at a time, whatever the profile says.
func TestRepeatable(t *testing.T) {
	c, err := Source{Profile: Demo, Sets: []string{"run.repeatable=true"}}.Load()
	if err != nil || c.Rollout.Concurrency != 1 || c.Sampler.Concurrency != 1 || c.Trainer.MicroBatch != repeatableTokens {
		t.Errorf("%v, %+v", err, c.Rollout)
	}
	f := func(set, want string) {
		t.Helper()
		_, err := Source{Profile: Demo, Sets: []string{"run.repeatable=true", set}}.Load()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", set, err, want)
		}
	}
	f("sampler.backend=vllm", "run.repeatable")
	f("rollout.max_staleness=1", "rollout.max_staleness: run.repeatable is true")
}

// A server that sleeps while the trainer works cannot sample then.
func TestNoOverlapWithASleepingServer(t *testing.T) {
	f := func(want string, sets ...string) {
		t.Helper()
		_, err := Source{Profile: Demo, Sets: sets}.Load()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v: %v, want %q", sets, err, want)
		}
	}
	for _, backend := range []string{"vllm", "sglang"} {
		on := []string{"sampler.backend=" + backend, "sampler." + backend + ".urls=[\"http://127.0.0.1:1\"]"}
		sleep, awake := "sampler."+backend+".sleep=true", "sampler."+backend+".sleep=false"
		f("the server sleeps while the trainer works (sampler."+backend+".sleep)", append(on, sleep,
			"rollout.max_staleness=1")...)
		f("", append(on, awake, "rollout.max_staleness=1")...)
		f("", append(on, sleep)...)
	}
	f("a memory over HTTP cannot show", "memory.strategy=http", "memory.http.url=http://127.0.0.1:1",
		"rollout.max_staleness=1")
	f("", "memory.strategy=umem", "rollout.max_staleness=1")
	f("", "rollout.max_staleness=16")
	f("out of range", "rollout.max_staleness=17")
	f("out of range", "rollout.max_staleness=-1")
	f("has no effect", "algorithm.name=adapt", "rollout.max_staleness=1")
}
