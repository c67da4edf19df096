package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator/config"
)

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
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	return explainDamage(ctx, cmd.evaluate(ctx, c, out), dir, cmd.command())
}

// evaluate evaluates the run that c names.
func (cmd *evalCmd) evaluate(ctx context.Context, c config.Config, out *console) error {
	log := out.logger(cmd.Verbose)
	c, err := storedConfig(ctx, c, cmd.Set)
	if err != nil {
		return err
	}
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return err
	}
	r, err := openRun(ctx, c, t, log, out.phasesOf(""))
	if err != nil {
		return err
	}
	if err := r.checkPins(ctx, t, false); err != nil {
		return errors.Join(err, r.Close())
	}
	if cmd.Temperature != nil {
		r.loop.Config.Eval.Temperature = *cmd.Temperature
	}
	r.observe(progressObserver{out: out})
	e, err := r.loop.EvaluateNewest(r.watched(ctx), envs.Split(cmd.Split), cmd.Episodes)
	err = errors.Join(err, r.Close())
	out.endPhase("")
	if err != nil {
		return err
	}
	if cmd.JSON {
		out.json("evaluation", e)
		return nil
	}
	textObserver{out: out}.Evaluation(e)
	for _, text := range e.Warnings() {
		log.Warn().Msg(text)
	}
	for _, task := range e.Tasks {
		out.print("  %-28s success %5.1f %%  score %6.1f  (%s)",
			task.Task, 100*task.Success, task.Score, counted(task.Episodes, "episode"))
	}
	return nil
}
