package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/watchdog"
)

type runCmd struct {
	common
	viewFlag
	JSON bool `help:"Print JSON lines instead of text."`
	// AcceptChanges continues although what the run depends on has changed.
	AcceptChanges bool `help:"Continue although files of the model, its chat template or its tokenizer have changed."`

	Fork string `placeholder:"RUN[@STEP]" help:"Start a new run with the version and the memory of another one."`

	FromStep *int64 `placeholder:"N" help:"Go back to step N first. Later steps are set aside, not deleted."`

	Probe  inspect.Probe `kong:"-"` // tests replace it
	forked fork
}

// Help is shown by empo2 run --help.
func (runCmd) Help() string {
	return `Uses ./config.toml, or the files given with -c. Each step prints one line. After
Ctrl-C or a crash the same command continues, and finished episodes are kept.
--from-step N returns to any step whose checkpoint is kept (run.keep_checkpoints), and
moves later steps to the folder aside/ of the run. empo2 check lists what is damaged.
--fork starts a new run with the configuration, the version and the memory of another
one, which may be running. --set names the new run and changes its keys.

Examples:
  empo2 run                                as ./config.toml says
  empo2 run --profile demo                 the demonstration, in ./runs/vault
  empo2 run --profile demo --view          the same, with a page that shows how it goes
  empo2 run -c my.toml --set run.name=try2
  empo2 run --set run.steps=100            train a finished run further
  empo2 run --fork vault@20 --set run.name=slow --set optimizer.learning_rate=1e-5
  empo2 run --json | jq 'select(.event=="step").data.free.return'`
}

func (cmd *runCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.configuration(ctx)
	if err != nil {
		return err
	}
	out.useJSON(cmd.JSON)
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	stop, err := cmd.start(ctx, out, dir)
	if err != nil {
		return err
	}
	defer stop()
	err = explainDamage(ctx, cmd.train(ctx, c, out), dir, cmd.command())
	if cmd.JSON {
		out.json("end", runEndOf(ctx, err))
	}
	return err
}

// configuration is that of the run, and of a fork that is not made yet.
func (cmd *runCmd) configuration(ctx context.Context) (config.Config, error) {
	if cmd.Fork == "" {
		return cmd.load()
	}
	f, err := cmd.readFork(ctx)
	cmd.forked = f
	return f.config, err
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
	if cmd.Fork != "" {
		if err := cmd.forked.begin(ctx, t, out); err != nil {
			return err
		}
	}
	if cmd.FromStep != nil {
		if err := returnToStep(ctx, c, *cmd.FromStep, out); err != nil {
			return err
		}
	}
	started := time.Now()
	defer out.endPhase("")
	r, err := openRun(ctx, c, t, log, out.phasesOf(""))
	if err != nil {
		return err
	}
	if err := cmd.begin(ctx, r, t, time.Since(started), out); err != nil {
		return errors.Join(err, r.Close())
	}
	summary, err := r.train(ctx)
	out.phase("", watchdog.Phase{Name: watchdog.PhaseStop, Since: time.Now(), Detail: "trainer and server"})
	err = errors.Join(err, r.Close())
	out.endPhase("")
	if err != nil {
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

// begin checks and stores what the opened run depends on, announces it, and adds its
// observers. It took so long to open the run.
func (cmd *runCmd) begin(ctx context.Context, r *run, t tools, took time.Duration, out *console) error {
	c := r.loop.Config
	if err := r.checkPins(ctx, t, cmd.AcceptChanges); err != nil {
		return err
	}
	if err := saveConfig(ctx, r.ledger, c); err != nil {
		return err
	}
	if err := cmd.announce(ctx, r, took, out); err != nil {
		return err
	}
	others, err := r.tellOthers(ctx, c, out)
	if err != nil {
		return err
	}
	if cmd.JSON {
		others = append(others, jsonObserver{out: out})
	} else {
		others = append(others, textObserver{out: out, verbose: cmd.Verbose})
	}
	r.observe(others...)
	return nil
}

// announce says which run begins or continues.
func (cmd *runCmd) announce(ctx context.Context, r *run, took time.Duration, out *console) error {
	c := r.loop.Config
	if !cmd.JSON {
		out.note("%s", beginning(c, r.ledger.Dir, took))
		return nil
	}
	last, err := r.ledger.Last(ctx)
	if err != nil {
		return err
	}
	out.json("start", runStart{Run: c.Run.Name, Dir: r.ledger.Dir, Empo2: version(), PID: os.Getpid(),
		Algorithm: c.Algorithm.Name, Environment: c.Env.Name, Model: c.Model.Path, Step: last.Step, Version: last.Version,
		Steps: c.Run.Steps, Seconds: took.Seconds()})
	return nil
}

// beginning is what run prints when everything has started.
func beginning(c config.Config, dir string, took time.Duration) string {
	parts := append([]string{c.Algorithm.Name + " in " + dir, fmt.Sprintf("started in %.1fs", took.Seconds())},
		describeEnv(c)...)
	return strings.Join(append(wrapParts("", parts), legend), "\n")
}

// runStart is the data of the event "start".
type runStart struct {
	Run         string  `json:"run"`
	Dir         string  `json:"dir"`
	Empo2       string  `json:"empo2"` // the program's version
	PID         int     `json:"pid"`
	Algorithm   string  `json:"algorithm"`
	Environment string  `json:"environment"`
	Model       string  `json:"model"`
	Step        int64   `json:"step"` // the last committed one
	Version     int     `json:"version"`
	Steps       int     `json:"steps"`   // at which the run ends
	Seconds     float64 `json:"seconds"` // that the start took
}

// runEnd is the data of the event "end", which is the last one.
type runEnd struct {
	State string `json:"state"` // done, interrupted or failed
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// runEndOf describes how a command ended.
func runEndOf(ctx context.Context, err error) runEnd {
	switch {
	case err == nil:
		return runEnd{State: "done"}
	case ctx.Err() != nil:
		return runEnd{State: "interrupted", Error: context.Cause(ctx).Error()}
	}
	msg, hint := splitHint(err)
	return runEnd{State: "failed", Error: msg, Hint: hint}
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
