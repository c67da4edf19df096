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
}
