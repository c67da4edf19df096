package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/ledger"
)

type abCmd struct {
	common
	A string `arg:"" placeholder:"A" help:"Prompt template, RUN[@VERSION], KEY=VALUE or tips=…; several with commas."`
	B string `arg:"" placeholder:"B" help:"The other setting."`

	Base        string   `name:"run" placeholder:"RUN[@VERSION]" help:"Run that both sides begin with. Default: none."`
	Tasks       int      `default:"16" help:"Tasks to play, spread over the split."`
	K           int      `short:"k" help:"Pairs of episodes a task. Default: 4, or 64 at most with --until."`
	Split       string   `default:"eval" enum:"train,eval,test" help:"Tasks to choose from: train, eval or test."`
	Until       string   `enum:",decided" default:"" placeholder:"decided" help:"Stop as soon as the interval excludes 0."`
	Measure     string   `default:"return" enum:"return,success,score" help:"What is compared: ${enum}."`
	Range       []string `sep:"none" placeholder:"LOW:HIGH" help:"Range of the measure, for --until. Default: 0:1, 0:100."`
	Seed        *uint64  `help:"Seed of the episodes. Default: run.seed."`
	Temperature *float64 `placeholder:"T" help:"Sampling temperature. Default: eval.temperature."`
	Limit       int      `default:"10" help:"Number of tasks and pairs to list, the largest differences first; 0: all."`
	JSON        bool     `help:"Print JSON lines."`
}

// Help is shown by empo2 ab --help.
func (abCmd) Help() string {
	return `Plays the same tasks with the same seeds with two settings, and compares the returns
pair by pair. Each episode is stored at once, and the same command continues. Nothing is
trained.

Without --until, all pairs are played. Returns of two values have Newcombe's interval for
paired rates (1998), others a t interval. These hold for a number of pairs that is fixed
beforehand, so do not repeat with a larger -k until you like the result.

With --until decided, each pair is of a task drawn at random, and the command ends when
the interval excludes 0. The interval is a confidence sequence (Waudby-Smith and Ramdas,
"Estimating means of bounded random variables by betting", 2024): it is wrong at any time
with a probability of 5 % at most, however often one looks. It needs the range of the
returns (--range).

Examples:
  empo2 ab plain.tmpl mine.tmpl --tasks 32 -k 2
  empo2 ab vault@12 vault@48 --until decided          two versions of a run
  empo2 ab tips=none tips=auto --run vault            memory off and on
  empo2 ab --run vault old.tmpl new.tmpl,rollout.max_tokens=64
  empo2 ab model.path=models/a model.path=models/b    two models
  empo2 ab old.tmpl new.tmpl --json | jq 'select(.event=="result").data.difference'`
}

func (cmd *abCmd) Run(ctx context.Context, out *console) (err error) {
	reach, err := cmd.check()
	if err != nil {
		return err
	}
	log := out.logger(cmd.Verbose)
	var sides [2]*side
	for i, text := range []string{cmd.A, cmd.B} {
		if sides[i], err = openSide(ctx, cmd.common, "AB"[i:i+1], text, cmd.Base); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sides[i].Close()) }()
		if cmd.Temperature != nil {
			sides[i].config.Eval.Temperature = *cmd.Temperature
		}
	}
	duel, err := cmd.open(ctx, sides, out, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, duel.Close()) }()
	result, err := duel.run(ctx, reach)
	if err != nil {
		return err
	}
	duel.report(result)
	return nil
}

// check refuses flags that make no sense, and returns the width of the range of the
// measure.
func (cmd *abCmd) check() (reach float64, err error) {
	decide := cmd.Until != ""
	if cmd.K == 0 {
		cmd.K = 4
		if decide {
			cmd.K = 64
		}
	}
	t := cmd.Temperature
	switch {
	case cmd.Tasks < 1:
		return 0, fmt.Errorf("%w: --tasks %d\n  hint: at least 1", errUsage, cmd.Tasks)
	case cmd.K < 1 || cmd.Tasks > maxPairs/cmd.K:
		return 0, fmt.Errorf("%w: --tasks %d and -k %d\n  hint: at least 1, and %d pairs at most", errUsage, cmd.Tasks, cmd.K,
			maxPairs)
	case t != nil && !(*t >= 0 && *t <= 10): // NaN too
		return 0, fmt.Errorf("%w: --temperature %g\n  hint: a number from 0 to 10", errUsage, *t)
	case cmd.Limit < 0:
		return 0, fmt.Errorf("%w: --limit %d\n  hint: --limit 0 lists all pairs", errUsage, cmd.Limit)
	case cmd.Base != "" && (cmd.Profile != "" || len(cmd.ConfigFile) > 0):
		return 0, fmt.Errorf("%w: --run has its own configuration\n  hint: leave -c and --profile out", errUsage)
	case len(cmd.Range) > 0 && (!decide || cmd.Measure == "success"):
		return 0, fmt.Errorf("%w: --range has no effect\n  hint: it belongs to --until decided with returns or scores",
			errUsage)
	}
	return cmd.reach()
}

// maxPairs bounds a comparison.
const maxPairs = 100_000

// reach is the width of the range of the measure.
func (cmd *abCmd) reach() (float64, error) {
	low, high := 0.0, 1.0
	if cmd.Measure == "score" {
		high = 100
	}
	for _, text := range cmd.Range {
		n, err := fmt.Sscanf(text, "%g:%g", &low, &high)
		if n != 2 || err != nil || !(high > low && high-low < 1e30) {
			return 0, fmt.Errorf("%w: --range %s\n  hint: LOW:HIGH, for example --range=-1:1", errUsage, text)
		}
	}
	return high - low, nil
}

// open starts what the sides need and opens the folder of the comparison.
func (cmd *abCmd) open(ctx context.Context, sides [2]*side, out *console, log zerolog.Logger) (_ *duel, err error) {
	d := &duel{abCmd: cmd, console: out, sides: sides}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for _, s := range sides { // a player that both share verifies only the first
		if _, err := s.adapter(ctx); err != nil {
			return nil, fmt.Errorf("side %s: %w", s.name, err)
		}
	}
	open := func(s source) (*player, error) {
		p, err := openPlayer(ctx, s, s.config.Rollout.Concurrency, log)
		if err == nil {
			d.closes = append(d.closes, p.Close)
		}
		return p, err
	}
	if err := sides[0].open(open, nil); err != nil {
		return nil, err
	}
	if err := sides[1].open(open, sides[0]); err != nil {
		return nil, err
	}
	if d.tasks, err = cmd.commonTasks(sides); err != nil {
		return nil, err
	}
	for _, s := range sides {
		if err := s.start(ctx, out); err != nil {
			return nil, err
		}
	}
	if d.ledger, err = cmd.openStore(ctx, sides); err != nil {
		return nil, err
	}
	d.closes = append(d.closes, d.ledger.Close)
	return d, nil
}

// commonTasks returns the tasks to play. Both sides must have the same ones.
func (cmd *abCmd) commonTasks(sides [2]*side) ([]envs.Task, error) {
	var all [2][]envs.Task
	for i, s := range sides {
		tasks, err := s.player.family.Tasks(envs.Split(cmd.Split))
		if err != nil {
			return nil, fmt.Errorf("side %s: %w", s.name, err)
		}
		all[i] = tasks
	}
	same := slices.EqualFunc(all[0], all[1], func(a, b envs.Task) bool { return a.ID == b.ID })
	switch {
	case !same:
		return nil, &config.Error{Place: cmd.A + " and " + cmd.B, Msg: "the sides have different tasks in split " + cmd.Split,
			Hint: "compare settings with the same environment"}
	case len(all[0]) == 0:
		return nil, &config.Error{Place: "--split " + cmd.Split, Msg: "the split is empty", Hint: "choose another split"}
	}
	return orchestrator.Spread(all[0], cmd.Tasks), nil
}

// openStore opens the folder that stores the episodes. It is the same for the same
// comparison, so that a repeated command continues.
func (cmd *abCmd) openStore(ctx context.Context, sides [2]*side) (*ledger.Ledger, error) {
	what := cmd.Split + fmt.Sprint(cmd.seed(sides), cmd.Tasks)
	for _, s := range sides {
		id, err := s.identity()
		if err != nil {
			return nil, err
		}
		what += id
	}
	c := sides[0].config
	l, err := ledger.Open(ctx, filepath.Join(c.Run.Dir, "ab", shortSum(what)))
	if err != nil {
		return nil, err
	}
	err = saveConfig(ctx, l, c)
	for _, s := range sides {
		if err == nil {
			err = l.SavePrompt(ctx, s.texts.SHA256(), s.texts.Text())
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// seed is the seed of the comparison.
func (cmd *abCmd) seed(sides [2]*side) uint64 {
	if cmd.Seed != nil {
		return *cmd.Seed
	}
	return sides[0].config.Run.Seed
}
