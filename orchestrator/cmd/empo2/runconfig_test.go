package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// A run can continue with another server, folder or length, but not with a key
// that changes what it computes.
func TestKeysThatAContinuedRunMayChange(t *testing.T) {
	before := load(t)
	before.Run.Dir = t.TempDir()
	f := func(set, key string) {
		t.Helper()
		c, err := config.With(before, strings.Split(set, " "))
		if err != nil {
			t.Fatal(err)
		}
		l, err := openLedger(context.Background(), before)
		if err != nil {
			t.Fatal(err)
		}
		commitSteps(t, l, 1)
		l.Close()
		l, err = openLedger(context.Background(), c)
		if err == nil {
			l.Close()
		}
		if (key == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s: %v", set, err)
		}
	}
	f("run.steps=99 sampler.concurrency=4", "")
	f("sampler.backend=vllm sampler.canary_tolerance=0.1", "")
	f("sampler.template=chatml", "sampler.template")
	f("sampler.thinking=strip", "sampler.thinking")
	f("sampler.template_args={enable_thinking=false}", "sampler.template_args")
	f("run.max_seconds=60 rollout.concurrency=4", "")
	f("algorithm.group_size=8", "algorithm.group_size")
	f("trainer.dtype=bfloat16", "trainer.dtype")
}

// A failed start does not change the stored configuration. eval accepts another
// server, but no key that would have no effect.
func TestStoredConfigurationSurvivesAFailedStart(t *testing.T) {
	ctx, before := context.Background(), load(t)
	before.Run.Dir = t.TempDir()
	l, err := openLedger(ctx, before)
	if err != nil {
		t.Fatal(err)
	}
	commitSteps(t, l, 1)
	l.Close()
	other, err := config.With(before, []string{"sampler.backend=vllm"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err = openLedger(ctx, other); err != nil { // and then the server cannot be reached
		t.Fatal(err)
	}
	l.Close()
	stored, err := storedConfig(ctx, before, nil)
	if err != nil || stored.Sampler.Backend != "llamacpp" {
		t.Errorf("backend %s, %v", stored.Sampler.Backend, err)
	}
	if stored, err = storedConfig(ctx, other, []string{"sampler.backend=vllm"}); err != nil ||
		stored.Sampler.Backend != "vllm" {
		t.Errorf("with another server: %s, %v", stored.Sampler.Backend, err)
	}
	longer := before
	longer.Rollout.MaxTurns = 5
	if _, err = storedConfig(ctx, longer, []string{"rollout.max_turns=5"}); err == nil ||
		!strings.Contains(err.Error(), "no effect") {
		t.Errorf("a key without effect: %v", err)
	}
}

// For a folder of an earlier version, the errors of run and eval name the new
// keys.
func TestRunOfAnEarlierVersion(t *testing.T) {
	ctx, c := context.Background(), load(t)
	c.Run.Dir = t.TempDir()
	l, err := ledger.Open(ctx, filepath.Join(c.Run.Dir, c.Run.Name))
	if err != nil {
		t.Fatal(err)
	}
	commitSteps(t, l, 1)
	err = errors.Join(l.SaveConfig(ctx, "[rollout]\nmax_steps = 30\n[sampler]\ncanary = 0.001\n"), l.Close())
	if err != nil {
		t.Fatal(err)
	}
	_, running := openLedger(ctx, c)
	_, evaluating := storedConfig(ctx, c, nil)
	for _, err := range []error{running, evaluating} {
		for _, want := range []string{"run.db:2", "rollout.max_steps is now rollout.max_turns",
			"sampler.canary is now sampler.canary_tolerance", "another version of empo2",
			"hint: continue it with that version"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\nwants %q", err, want)
			}
		}
	}
}

// A change that a continued run may have is an event that names the key with both values; an
// equal configuration is none.
func TestChangesOfAContinuedRunAreEvents(t *testing.T) {
	before := load(t)
	before.Run.Dir = t.TempDir()
	f := func(c config.Config, want string) {
		t.Helper()
		l, err := openLedger(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		commitSteps(t, l, 1)
		if err := saveConfig(t.Context(), l, c); err != nil {
			t.Fatal(err)
		}
		got, err := l.LastEvent(t.Context(), "configuration changed")
		if err != nil || got != want {
			t.Errorf("the event is %q (%v), want %q", got, err, want)
		}
	}
	f(before, "")
	f(before, "")
	after, err := config.With(before, []string{"optimizer.learning_rate=0.00125", "run.steps=77"})
	if err != nil {
		t.Fatal(err)
	}
	changes := strings.Join(config.Differences(before, after), "\n")
	if !strings.Contains(changes, "optimizer.learning_rate: ") || !strings.Contains(changes, "0.00125") ||
		!strings.Contains(changes, "run.steps: ") {
		t.Fatalf("differences: %s", changes)
	}
	f(after, changes)
	f(after, changes)
}
