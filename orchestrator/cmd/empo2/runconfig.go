package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// openLedger opens the run's folder. A new run gets the configuration c. For an
// existing run, openLedger returns an error if c would compute something else.
// saveConfig then replaces the stored configuration, when everything that c
// names was found.
func openLedger(ctx context.Context, c config.Config) (*ledger.Ledger, error) {
	l, err := openFolder(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := saveFirst(ctx, l, c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// openFolder is openLedger without a configuration for a new run. What a failed start
// has left of a run that has not begun is removed, so that the next start may have
// another model, environment or server.
func openFolder(ctx context.Context, c config.Config) (*ledger.Ledger, error) {
	if err := checkWarmStart(ctx, c); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, filepath.Join(c.Run.Dir, c.Run.Name))
	if err != nil {
		return nil, err
	}
	err = acceptConfig(ctx, l, c)
	if err == nil {
		err = l.FillFacts(ctx, orchestrator.FactsOf)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// acceptConfig returns an error if the run was begun with another configuration.
func acceptConfig(ctx context.Context, l *ledger.Ledger, c config.Config) error {
	text, err := l.Config(ctx)
	if err != nil || text == "" {
		return err
	}
	begun, err := l.Begun(ctx)
	if err != nil {
		return err
	}
	if begun {
		return sameRun(text, l.Dir, c)
	}
	imports, _, err := l.Imports(ctx)
	if err == nil && len(imports) > 0 { // their embeddings and their order depend on the memory's keys
		err = sameMemory(text, l.Dir, c)
	}
	if err != nil {
		return err
	}
	return l.StartOver(ctx)
}

// saveFirst gives a new run its configuration.
func saveFirst(ctx context.Context, l *ledger.Ledger, c config.Config) error {
	text, err := l.Config(ctx)
	if err != nil || text != "" {
		return err
	}
	return saveConfig(ctx, l, c)
}

// saveConfig records c as the run's configuration, and as an event what differs
// from the recorded one.
func saveConfig(ctx context.Context, l *ledger.Ledger, c config.Config) error {
	if err := recordChanges(ctx, l, c); err != nil {
		return err
	}
	var b strings.Builder
	if err := config.Write(&b, c); err != nil {
		return err
	}
	return l.SaveConfig(ctx, b.String())
}

// recordChanges records the keys that change, at the step that comes next.
func recordChanges(ctx context.Context, l *ledger.Ledger, c config.Config) error {
	text, err := l.Config(ctx)
	if err != nil || text == "" {
		return err
	}
	before, err := parseStored(text, l.Dir)
	if err != nil {
		return err
	}
	changes := config.Differences(before, c)
	last, err := l.Last(ctx)
	if err != nil || len(changes) == 0 {
		return err
	}
	return l.Event(ctx, last.Step+1, "configuration changed", strings.Join(changes, "\n"))
}

// mayChange are the keys that may change when a run continues. A name that ends
// in a dot is a table. Most of these keys set the length, the place and the
// hardware of a run, but not what it computes. The canary verifies that another
// server computes the same. The keys of the optimization apply from the next
// step. Each change is an event.
var mayChange = []string{
	"profile", "run.steps", "run.max_seconds", "run.name",
	"run.dir", "run.keep_checkpoints", "run.keep_episodes", "run.stall_minutes", "run.must_fit",
	"run.tensorboard", "run.metric_names", "run.prometheus",
	"eval.every", "eval.episodes", "eval.final_episodes", "sampler.", "trainer.threads", "trainer.device",
	"trainer.gpus", "trainer.parallel", "trainer.timeout_seconds", "trainer.url", "trainer.base_model",
	"trainer.micro_batch_tokens", "trainer.restarts", "trainer.env", "trainer.max_incomplete_steps", "optimizer.", "loss.",
	"divergence.", "rollout.retries", "rollout.concurrency", "rollout.max_staleness", "rollout.quorum",
	"rollout.deadline_seconds", "memory.url",
	"env.remote.url", "env.agentgym.url", "env.agentgym.timeout_seconds",
	"env.openenv.url", "env.openenv.timeout_seconds", "env.openenv.concurrency",
	"env.ors.url", "env.ors.timeout_seconds",
	"env.scienceworld.java", "env.scienceworld.concurrency", "env.webshop.data",
}

// mustStay are exceptions to mayChange: they affect every prompt.
var mustStay = []string{"sampler.template", "sampler.template_args", "sampler.thinking"}

// sameRun returns an error if c would compute something else than the
// configuration that the run was started with.
func sameRun(text, dir string, c config.Config) error {
	return refuseChanges(text, dir, c, func(key string) bool {
		return !config.Matches(key, mayChange) || config.Matches(key, mustStay)
	})
}

// sameMemory returns an error if c has another memory than the configuration that tips
// were imported with.
func sameMemory(text, dir string, c config.Config) error {
	return refuseChanges(text, dir, c, func(key string) bool {
		return config.Matches(key, []string{"memory.", "novelty."}) && !config.Matches(key, mayChange)
	})
}

// refuseChanges returns an error if a key that stays has another value in c than in the
// stored configuration.
func refuseChanges(text, dir string, c config.Config, stays func(key string) bool) error {
	before, err := parseStored(text, dir)
	if err != nil {
		return err
	}
	before = withMovedBase(before, c)
	var differ []string
	for _, d := range config.Differences(before, c) {
		if key, _, _ := strings.Cut(d, ":"); stays(key) {
			differ = append(differ, d)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return &config.Error{Place: "run " + dir, Msg: "it was started with another configuration:\n    " +
		strings.Join(differ, "\n    "),
		Hint: "choose another name (--set run.name=…), or the run's own file (-c " +
			filepath.Join(dir, "config.toml") + ")"}
}

// parseStored reads the configuration in a run's folder. Users cannot edit it, so
// the hint is another one if it has keys of an earlier version.
func parseStored(text, dir string) (config.Config, error) {
	stored, err := config.Parse(text, filepath.Join(dir, "run.db"))
	var fault *config.Error
	if errors.As(err, &fault) {
		return stored, &config.Error{Place: fault.Place,
			Msg:  "the run belongs to another version of empo2: " + fault.Msg,
			Hint: "continue it with that version, or choose another name (--set run.name=…)"}
	}
	return stored, err
}

// storedConfig returns the configuration with which the run that c names was
// trained. sets are the user's --set flags. Those of [sampler] are applied. Any
// other key that differs is an error, because it would have no effect.
func storedConfig(ctx context.Context, c config.Config, sets []string) (config.Config, error) {
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	if !fileExists(filepath.Join(dir, "run.db")) {
		return c, &config.Error{Place: dir, Msg: "no such run",
			Hint: "train it with empo2 run, or name another one with --set run.name=…"}
	}
	l, err := ledger.Open(ctx, dir)
	if err != nil {
		return c, err
	}
	text, err := l.Config(ctx)
	if err = errors.Join(err, l.Close()); err != nil {
		return c, err
	}
	stored, err := parseStored(text, dir)
	if err != nil {
		return c, err
	}
	stored = withMovedBase(stored, c)
	stored.Run.Dir, stored.Run.Name = c.Run.Dir, c.Run.Name // users may move the folder
	given := map[string]bool{}
	for _, s := range sets {
		key, _, _ := strings.Cut(s, "=")
		given[strings.TrimSpace(key)] = true
		if strings.HasPrefix(key, "sampler.") {
			stored.Sampler = c.Sampler
		}
	}
	for _, d := range config.Differences(stored, c) {
		if key, _, _ := strings.Cut(d, ":"); given[key] {
			return c, &config.Error{Place: "--set " + key,
				Msg:  "has no effect: the run was trained with another value (" + d + ")",
				Hint: "leave it out; only keys of [sampler] and the run's name may be given"}
		}
	}
	return stored, nil
}
