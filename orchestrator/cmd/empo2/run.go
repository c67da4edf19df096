package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/ledger"
)

type runCmd struct {
	common
	viewFlag
	JSON bool `help:"Print JSON lines instead of text."`
	// AcceptChanges continues although what the run depends on has changed.
	AcceptChanges bool `help:"Continue although files of the model, its chat template or its tokenizer have changed."`

	FromStep *int64 `placeholder:"N" help:"Go back to step N first. Later steps are set aside, not deleted."`

	Probe inspect.Probe `kong:"-"` // tests replace it
}

// Help is shown by empo2 run --help.
func (runCmd) Help() string {
	return `Uses ./config.toml, or the files given with -c. Each step prints one line. After
Ctrl-C or a crash the same command continues, and finished episodes are kept.
--from-step N returns to any step whose checkpoint is kept (run.keep_checkpoints), and
moves later steps to the folder aside/ of the run. empo2 check lists what is damaged.

Examples:
  empo2 run                                as ./config.toml says
  empo2 run --profile demo                 the demonstration, in ./runs/vault
  empo2 run --profile demo --view          the same, with a page that shows how it goes
  empo2 run -c my.toml --set run.name=try2
  empo2 run --set run.steps=100            train a finished run further
  empo2 run --json | jq 'select(.event=="step").data.free.return'`
}

func (cmd *runCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	stop, err := cmd.start(ctx, out, dir)
	if err != nil {
		return err
	}
	defer stop()
	return explainDamage(ctx, cmd.train(ctx, c, out), dir, cmd.command())
}

// train trains the run that c describes.
func (cmd *runCmd) train(ctx context.Context, c config.Config, out *console) error {
	if dir := filepath.Join(c.Run.Dir, c.Run.Name); cmd.FromStep != nil && !fileExists(dir) {
		return &config.Error{Place: "--from-step", Msg: "there is no run " + dir,
			Hint: "name the run with --set run.name=…, or leave the flag out to start it"}
	}
	log := out.logger(cmd.Verbose)
	if err := checkFit(c, 1, cmd.Probe, log); err != nil {
		return err
	}
	if err := cmd.checkStored(ctx, c); err != nil {
		return err
	}
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return err
	}
	if cmd.FromStep != nil {
		if err := returnToStep(ctx, c, *cmd.FromStep, out); err != nil {
			return err
		}
	}
	started := time.Now()
	r, err := openRun(ctx, c, t, log)
	if err != nil {
		return err
	}
	err = r.checkPins(ctx, t, cmd.AcceptChanges)
	if err == nil {
		err = saveConfig(ctx, r.ledger, c)
	}
	if err != nil {
		return errors.Join(err, r.Close())
	}
	out.note("%s in %s: %s, started in %.1fs\n%s",
		c.Algorithm.Name, r.ledger.Dir, describeEnv(c), time.Since(started).Seconds(), legend)
	if cmd.JSON {
		r.observe(jsonObserver{out: out, wrap: func(_ string, data any) any { return data }})
	} else {
		r.observe(textObserver{out: out, verbose: cmd.Verbose})
	}
	summary, err := r.train(ctx)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if cmd.JSON {
		reportPlan(out, summary, r.ledger.Dir, true)
		out.json("summary", summary)
		return nil
	}
	printSummary(out, summary, r.ledger.Dir)
	reportPlan(out, summary, r.ledger.Dir, false)
	return nil
}

// checkStored refuses a damaged run before anything is started or written. With
// --from-step the damage is what the run leaves behind.
func (cmd *runCmd) checkStored(ctx context.Context, c config.Config) error {
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	if info, err := os.Stat(filepath.Join(dir, "run.db")); cmd.FromStep != nil || err != nil || info.Size() == 0 {
		return nil // the ledger refuses a missing or empty database if there is anything beside it
	}
	return ledger.CheckFolder(ctx, dir)
}

// odds returns the probability 1/levers^doors, for example "1/16".
func odds(levers, doors int) string {
	n := 1
	for range doors {
		n *= levers
	}
	return fmt.Sprintf("1/%d", n)
}

func printSummary(out *console, s orchestrator.Summary, dir string) {
	out.print("\nafter %s, %s, %.0f s of training (policy v%d):",
		counted(int(s.Steps), "step"), counted(s.Episodes, "training episode"), s.Seconds, s.Version)
	out.print("%8s  %10s  %10s  %10s", "step", "episodes", "success %", "score")
	for _, e := range s.Evaluations {
		kind := ""
		if e.Kind == string(envs.Test) {
			kind = "  held-out tasks"
		}
		out.print("%8d  %10d  %10.1f  %10.1f%s", e.Step, e.TrainEpisodes, 100*e.Success, e.Score, kind)
	}
	out.print("files: %s: run.db (SQLite: episodes, steps, tips), adapters/, checkpoints/, config.toml", dir)
}
