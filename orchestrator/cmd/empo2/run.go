package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
)

type runCmd struct {
	common
	JSON bool `help:"Print JSON lines instead of text."`
}

// Help is shown by empo2 run --help.
func (runCmd) Help() string {
	return `Uses ./config.toml, or the files given with -c. Each step prints one line. After
Ctrl-C or a crash the same command continues, and finished episodes are kept.

Examples:
  empo2 run                                as ./config.toml says
  empo2 run --profile demo                 the demonstration, in ./runs/vault
  empo2 run -c my.toml --set run.name=try2
  empo2 run --set run.steps=100            train a finished run further
  empo2 run --json | jq 'select(.event=="step").data.free.return'`
}

func (cmd *runCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	log := out.logger(cmd.Verbose)
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return err
	}
	started := time.Now()
	r, err := openRun(ctx, c, t, log)
	if err != nil {
		return err
	}
	if err := saveConfig(ctx, r.ledger, c); err != nil {
		return errors.Join(err, r.Close())
	}
	out.note("%s in %s: %s, started in %.1fs\n%s",
		c.Algorithm.Name, r.ledger.Dir, describeEnv(c), time.Since(started).Seconds(), legend)
	r.loop.OnStep = func(m orchestrator.StepMetrics) { out.print("%s", stepLine(m)) }
	r.loop.OnEvaluation = func(e orchestrator.Evaluation) { out.print("%s", evaluationLine(e)) }
	if cmd.JSON {
		r.loop.OnStep = func(m orchestrator.StepMetrics) { out.json("step", m) }
		r.loop.OnEvaluation = func(e orchestrator.Evaluation) { out.json("evaluation", e) }
	}
	summary, err := r.loop.Run(ctx)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if cmd.JSON {
		out.json("summary", summary)
		return nil
	}
	printSummary(out, summary, r.ledger.Dir)
	return nil
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
	out.print("\nafter %d steps, %d training episodes, %.0f s of training (policy v%d):",
		s.Steps, s.Episodes, s.Seconds, s.Version)
	out.print("%8s  %10s  %10s  %10s", "step", "episodes", "success %", "score")
	for _, e := range s.Evaluations {
		kind := ""
		if e.Kind == string(envs.Test) {
			kind = "  held-out tasks"
		}
		out.print("%8d  %10d  %10.1f  %10.1f%s", e.Step, e.TrainEpisodes, 100*e.Success, e.Score, kind)
	}
	out.print("files: %s: run.db (SQLite: episodes, turns, steps, tips), adapters/, checkpoints/, config.toml", dir)
}

type evalCmd struct {
	common
	Split       string   `default:"eval" enum:"train,eval,test" help:"Tasks: train, eval or test (held out)."`
	Episodes    int      `default:"256" help:"Episodes, spread evenly over the tasks."`
	Temperature *float64 `placeholder:"T" help:"Sampling temperature. Default: eval.temperature."`
	JSON        bool     `help:"Print JSON."`
}

// Help is shown by empo2 eval --help.
func (evalCmd) Help() string {
	return `Evaluates the newest committed version of the run that run.name names. Tips are
shown only if the run is an adaptation (algorithm.name = "adapt").

Examples:
  empo2 eval
  empo2 eval --split test                  on held-out tasks
  empo2 eval --set run.name=try2 --temperature 0.4 --json`
}

func (cmd *evalCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	if cmd.Episodes < 1 {
		return fmt.Errorf("%w: --episodes %d\n  hint: at least 1", errUsage, cmd.Episodes)
	}
	if t := cmd.Temperature; t != nil && !(*t >= 0 && *t <= 10) { // NaN too
		return fmt.Errorf("%w: --temperature %g\n  hint: a number from 0 to 10", errUsage, *t)
	}
	log := out.logger(cmd.Verbose)
	if c, err = storedConfig(ctx, c, cmd.Set); err != nil {
		return err
	}
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return err
	}
	r, err := openRun(ctx, c, t, log)
	if err != nil {
		return err
	}
	if cmd.Temperature != nil {
		r.loop.Config.Eval.Temperature = *cmd.Temperature
	}
	e, err := r.loop.EvaluateNewest(ctx, envs.Split(cmd.Split), cmd.Episodes)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if cmd.JSON {
		out.json("evaluation", e)
		return nil
	}
	out.print("%s", evaluationLine(e))
	for _, task := range e.Tasks {
		out.print("  %-28s success %5.1f %%  score %6.1f  (%d episodes)",
			task.Task, 100*task.Success, task.Score, task.Episodes)
	}
	return nil
}

type configCmd struct{ common }

// Help is shown by empo2 config --help.
func (configCmd) Help() string {
	return `Prints the configuration that a run with the same flags would use: every key, its
value and its meaning.

Examples:
  empo2 config                             the defaults, or ./config.toml
  empo2 config --profile cpu
  empo2 config --set algorithm.group_size=32 > my.toml`
}

func (cmd *configCmd) Run(out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	return config.Write(out.out, c)
}

type versionCmd struct{}

func (versionCmd) Run(out *console) error {
	out.print("%s", version())
	return nil
}

// version describes this build of empo2.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "empo2 (unknown version)"
	}
	text := "empo2 " + info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			text += " " + s.Value
		}
	}
	return text + " " + info.GoVersion
}
