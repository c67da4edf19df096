package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

// mustFork are the keys that a fork of a trained version cannot change: its checkpoint
// has the adapter of the other run.
var mustFork = []string{"trainer.rank", "trainer.alpha", "trainer.target_modules", "trainer.quantize"}

// A fork is a new run that begins with the version and the memory of another one.
type fork struct {
	from    string // the folder of the other run
	step    int64  // -1: its newest one
	before  config.Config
	config  config.Config // of the new run
	version int           // of the other run, the newest one
}

// readFork reads the run that --fork names. The new run has its configuration, with
// the changes of --set.
func (cmd *runCmd) readFork(ctx context.Context) (fork, error) {
	if cmd.FromStep != nil {
		return fork{}, fmt.Errorf("%w: --fork and --from-step\n  hint: write --fork RUN@STEP", errUsage)
	}
	dir, step, err := splitTarget(cmd.Fork)
	if err != nil {
		return fork{}, err
	}
	flags := cmd.common
	flags.Set = nil
	s, err := openSource(ctx, flags, dir)
	if err != nil {
		return fork{}, err
	}
	f := fork{from: filepath.Clean(dir), step: int64(step), before: s.config, version: s.version}
	if err := s.Close(); err != nil {
		return f, err
	}
	f.config, err = config.With(f.before, cmd.Set)
	if err == nil {
		err = f.check()
	}
	return f, err
}

// check refuses what a fork cannot be.
func (f fork) check() error {
	to := filepath.Join(f.config.Run.Dir, f.config.Run.Name)
	if to == filepath.Join(f.before.Run.Dir, f.before.Run.Name) {
		return &config.Error{Place: "--fork", Msg: "the new run needs a name of its own", Hint: "add --set run.name=NAME"}
	}
	if f.step == 0 || f.version == 0 { // the adapter is untrained
		return nil
	}
	for _, d := range config.Differences(f.before, f.config) {
		if key, _, _ := strings.Cut(d, ":"); config.Matches(key, mustFork) {
			return &config.Error{Place: "--set " + key, Msg: "the checkpoint of " + f.from + " has another value (" + d + ")",
				Hint: "leave it out, or fork the untrained version with --fork " + filepath.Base(f.from) + "@0"}
		}
	}
	return nil
}

// begin makes the new run unless it exists.
func (f fork) begin(ctx context.Context, t tools, out *console) error {
	to := filepath.Join(f.config.Run.Dir, f.config.Run.Name)
	from, err := ledger.ForkedFrom(ctx, to)
	switch {
	case err != nil:
		return err
	case from == f.from:
		return nil // the same command continues
	case fileExists(filepath.Join(to, "run.db")):
		return &config.Error{Place: to, Msg: "is a run that was not forked from " + f.from,
			Hint: "choose another name with --set run.name=…"}
	}
	if err := f.sameModel(ctx, t); err != nil {
		return err
	}
	step, err := ledger.Fork(ctx, ledger.Forking{From: f.from, Step: f.step, To: to, Prepare: f.prepare})
	if err != nil {
		return err
	}
	out.note("%s begins with step %d of %s", to, step, f.from)
	return nil
}

// sameModel returns an error if the new run has another model than the other one.
func (f fork) sameModel(ctx context.Context, t tools) error {
	l, err := ledger.OpenReader(ctx, f.from)
	if err != nil {
		return err
	}
	defer l.Close()
	changed, err := changedModel(ctx, l, f.config, t)
	if err == nil && len(changed) > 0 {
		err = &config.Error{Place: "model.path", Msg: "it is another model than that of " + f.from + ": " +
			strings.Join(changed, ", "),
			Hint: "a fork trains the same model: leave model.path out, or start a run of its own without --fork"}
	}
	return err
}

// prepare writes the memory and the configuration of the new run.
func (f fork) prepare(ctx context.Context, l *ledger.Ledger, step int64) error {
	if n := f.config.Run.Steps; int64(n) <= step {
		return &config.Error{Place: "run.steps", Msg: fmt.Sprintf("is %d, and the fork begins with step %d", n, step),
			Hint: fmt.Sprintf("the steps are counted on: add --set run.steps=%d", 2*max(step, 1))}
	}
	if err := errElsewhere(f.config, "--fork"); err != nil {
		return err
	}
	if f.config.HasMemory() {
		r := &run{ledger: l}
		defer r.Close()
		m, err := r.openMemory(ctx, f.config)
		if err != nil {
			return err
		}
		if err := orchestrator.Replay(ctx, l, m.Strategy, l.DB()); err != nil {
			return err
		}
	}
	return saveConfig(ctx, l, f.config)
}
