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
	f("", "rollout.max_staleness=16")
	f("out of range", "rollout.max_staleness=17")
	f("out of range", "rollout.max_staleness=-1")
	f("has no effect", "algorithm.name=adapt", "rollout.max_staleness=1")
}
