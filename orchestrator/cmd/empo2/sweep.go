package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
)

type sweepCmd struct {
	viewFlag
	File    string   `arg:"" placeholder:"FILE" help:"Sweep file in TOML; see above."`
	Jobs    int      `placeholder:"K" help:"Runs at the same time. Default: jobs of the file, or 1."`
	Out     string   `type:"path" placeholder:"FOLDER" help:"Output folder. Default: out of the file."`
	Set     []string `sep:"none" placeholder:"KEY=VALUE" help:"Set a key in all runs. Repeatable."`
	Retry   bool     `help:"Try failed runs again."`
	DryRun  bool     `help:"Print the runs with their state, and start nothing."`
	JSON    bool     `help:"Print JSON lines instead of text."`
	Verbose bool     `short:"v" help:"Log every event, and print every step."`
}

// Help is shown by empo2 sweep --help.
func (sweepCmd) Help() string {
	return `Trains every setting of a sweep file with every seed, and writes sweep.html, .svg, .csv,
.txt and .json: the mean of each setting over the seeds with its 95 % interval, and curves
against steps, episodes, tokens and seconds. The same command continues, also after a
crash, and skips what is done. A run that fails is listed; the others go on.

A sweep file:
  profile = "demo"                 # as --profile; or leave it out
  base = ["mine.toml"]             # as -c; relative to this file
  seeds = [1, 2, 3, 4, 5]          # or houses = […] in the vault: a house is also the seed
  jobs = 2                         # runs at the same time
  metric = "success"               # what the curves show; or "score"
  out = "runs/kl"

  [set]                            # keys of all runs
  run.steps = 16

  [arms.empo2]                     # settings with a name
  [arms.grpo]
  algorithm.name = "grpo"

  [grid]                           # every combination, for each arm
  optimizer.learning_rate = [1e-3, 3e-3]
  algorithm.estimator = ["grpo", "rloo"]

Examples:
  empo2 sweep scripts/recipes/sweep-vault.toml
  empo2 sweep kl.toml --dry-run              what would run, and what is done
  empo2 sweep kl.toml --jobs 4 --view        four runs at a time, with a page that follows them
  empo2 sweep kl.toml --retry                failed runs too`
}

func (cmd *sweepCmd) Run(ctx context.Context, out *console) error {
	s, err := cmd.open()
	if err != nil {
		return err
	}
	s.console = out
	out.useJSON(cmd.JSON)
	for _, note := range s.notes {
		out.note("note: %s", note)
	}
	if !cmd.DryRun {
		if err := os.MkdirAll(s.Out, 0o755); err != nil {
			return fmt.Errorf("make the folder of the sweep: %w\n  hint: --out names another one", err)
		}
		lock, err := ledger.Lock(filepath.Join(s.Out, "sweep.lock"))
		if err != nil {
			return fmt.Errorf("%s: another sweep writes to this folder: %w", s.Out, err)
		}
		defer lock.Close()
	}
	if err := s.look(ctx); err != nil {
		return err
	}
	if cmd.DryRun {
		return s.list()
	}
	stop, err := cmd.start(ctx, out, s.Out)
	if err != nil {
		return err
	}
	defer stop()
	return s.run(ctx)
}

// open reads the sweep file and checks every configuration.
func (cmd *sweepCmd) open() (*sweeper, error) {
	file, err := config.ReadSweep(cmd.File)
	if err != nil {
		return nil, err
	}
	if cmd.Jobs < 0 {
		return nil, fmt.Errorf("%w: --jobs %d is out of range\n  hint: at least 1", errUsage, cmd.Jobs)
	}
	if cmd.Jobs > 0 {
		file.Jobs = cmd.Jobs
	}
	if cmd.Out != "" {
		file.Out = cmd.Out
	}
	if err := notOwned(cmd.Set); err != nil {
		return nil, err
	}
	compare := &compareCmd{
		common: common{Profile: file.Profile, ConfigFile: file.Files, Set: slices.Concat(file.Sets, cmd.Set),
			Verbose: cmd.Verbose, OnlyNamed: true},
		Jobs: file.Jobs, Out: file.Out, JSON: cmd.JSON, seeds: file.Seeds,
	}
	if file.Houses != nil {
		compare.seeds, compare.houses = file.Houses, true
	}
	compare.explain = file.Explain
	s := &sweeper{comparer: comparer{compareCmd: compare, quiet: !cmd.Verbose}, file: file, retry: cmd.Retry,
		command: "empo2 sweep " + safetext.Argument(cmd.File)}
	for _, a := range file.Arms {
		s.arms = append(s.arms, arm{name: a.Name, title: a.Title, sets: a.Sets})
	}
	if s.settings, s.notes, err = compare.settings(s.arms); err != nil {
		return nil, file.Explain(err)
	}
	for i, c := range s.settings {
		if compare.houses && c.Env.Name != "vault" {
			return nil, &config.Error{Place: file.Place + ": houses", Msg: "arm " + s.arms[i].name +
				" trains in the environment " + c.Env.Name + ", which has no houses", Hint: "use seeds"}
		}
	}
	return s, nil
}

// notOwned refuses keys of --set that the sweep sets itself.
func notOwned(sets []string) error {
	for _, set := range sets {
		key, _, _ := strings.Cut(set, "=")
		if key = strings.TrimSpace(key); ownedKeys[key] != "" || key == "profile" {
			return fmt.Errorf("%w: --set %s: the sweep sets %s itself\n  hint: write seeds, out and profile in the file",
				errUsage, set, key)
		}
	}
	return nil
}

// list prints the runs with their state.
func (s *sweeper) list() error {
	states := map[string]int{}
	for _, j := range s.all() {
		state := s.state(j)
		states[state]++
		if s.JSON {
			s.console.json("run", map[string]any{"run": j.name(), "arm": j.arm.shown(), "seed": j.seed, "state": state})
			continue
		}
		line := fmt.Sprintf("%-10s %s", state, j.name())
		if f, ok := s.failures[j.name()]; ok {
			line += ": " + f.Error
		}
		s.console.print("%s", line)
	}
	s.console.note("%s in %s: %d done, %d failed, %d begun, %d waiting", counted(len(s.all()), "run"), s.Out,
		states[runDone], states[runFailed], states[runBegun], states[runWaiting])
	return nil
}

// isInterrupt reports whether an error is that of a command that was stopped.
func isInterrupt(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, context.Canceled)
}
