package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/demos"
	"github.com/empo2/empo2/orchestrator/ledger"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler/rollout"
)

type demosCmd struct {
	common
	Env         string   `placeholder:"NAME" help:"Environment. Default: env.name."`
	Out         string   `required:"" placeholder:"FILE" help:"File to write, JSON lines."`
	Force       bool     `help:"Replace the file if it exists."`
	Count       int      `default:"1000" placeholder:"N" help:"Demonstrations, at most."`
	Seed        uint64   `default:"0" placeholder:"N" help:"Seed of the teacher's episodes."`
	MaxTurns    int      `default:"-1" placeholder:"N" help:"Longest solution; 0: any. Default: rollout.max_turns."`
	FromRun     string   `name:"run" placeholder:"NAME" help:"Make them from the successful episodes of this run."`
	MinReturn   *float64 `placeholder:"X" help:"With --run: episodes with at least this return, successful or not."`
	WithoutTips bool     `help:"With --run: leave out the tips that the prompts had."`
}

// Help is shown by empo2 demos --help.
func (demosCmd) Help() string {
	return `Writes demonstrations for empo2 warmstart. The prompts are those that the policy sees in
training. They come from one of three sources:
- an environment with a teacher. vault's teacher plays houses for pre-training, which no
  run trains on, with 2 to env.vault.doors doors and 3 to env.vault.levers levers. Some
  episodes show tips, and others end with writing a tip;
- an environment that solves its own tasks. For scienceworld these are the simulator's
  gold paths, of training tasks only;
- the episodes of a run.

Examples:
  empo2 demos --env vault --count 2000 --out demos.jsonl
  empo2 demos --env scienceworld --set prompt.template=recipe --out demos.jsonl
  empo2 demos --run try1 --min-return 0.5 --out demos.jsonl
  empo2 warmstart --data demos.jsonl`
}

func (cmd *demosCmd) Run(ctx context.Context, out *console) error {
	var first []string
	if cmd.Env != "" {
		first = append(first, "env.name="+cmd.Env)
	}
	c, err := cmd.load(first...)
	if err != nil {
		return err
	}
	if err := cmd.check(); err != nil {
		return err
	}
	defer out.endPhase("")
	out.phase("", watchdog.Phase{Name: watchdog.PhaseDemos, Since: time.Now()})
	var all []demos.Demonstration
	if cmd.FromRun != "" {
		all, err = cmd.ofRun(ctx, c, out)
	} else {
		all, err = cmd.ofEnvironment(ctx, c, out)
	}
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return errors.New("there is no demonstration, so no file was written\n" +
			"  hint: raise --max-turns, or lower --min-return")
	}
	if err := demos.Write(cmd.Out, all); err != nil {
		return err
	}
	out.note("%s", demos.Describe(all))
	out.print("%s: %d demonstrations; next: empo2 warmstart --data %s", cmd.Out, len(all),
		safetext.Argument(cmd.Out))
	return nil
}

func (cmd *demosCmd) check() error {
	switch {
	case checkOut("--out", cmd.Out, cmd.Force) != nil:
		return checkOut("--out", cmd.Out, cmd.Force)
	case cmd.Count < 1:
		return fmt.Errorf("%w: --count %d\n  hint: at least 1", errUsage, cmd.Count)
	case cmd.MinReturn != nil && math.IsNaN(*cmd.MinReturn):
		return fmt.Errorf("%w: --min-return NaN\n  hint: a number", errUsage)
	case cmd.MaxTurns < -1:
		return fmt.Errorf("%w: --max-turns %d\n  hint: 0 or more", errUsage, cmd.MaxTurns)
	case cmd.FromRun == "" && (cmd.MinReturn != nil || cmd.WithoutTips):
		return fmt.Errorf("%w: --min-return and --without-tips choose episodes of a run\n  hint: name it with --run",
			errUsage)
	}
	return nil
}

// checkOut refuses a place where no file can be written, and a file that exists unless
// it may be replaced.
func checkOut(flag, path string, replace bool) error {
	refuse := func(what, hint string) error {
		return fmt.Errorf("%w: %s %s: %s\n  hint: %s", errUsage, flag, path, what, hint)
	}
	if path == "" {
		return fmt.Errorf("%w: %s is empty\n  hint: name a file", errUsage, flag)
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return refuse("it is not a file", "name a file")
	}
	if _, err := os.Lstat(path); err == nil && !replace {
		return refuse("the file exists already", "choose another file, or replace it with --force")
	}
	if dir := filepath.Dir(path); !isFolder(dir) {
		return refuse("the folder "+dir+" does not exist", "create it first")
	}
	return nil
}

// ofRun collects episodes of a run.
func (cmd *demosCmd) ofRun(ctx context.Context, c config.Config, out *console) (all []demos.Demonstration, err error) {
	c.Run.Name = cmd.FromRun
	if c, err = storedConfig(ctx, c, nil); err != nil {
		return nil, err
	}
	l, err := ledger.OpenReader(ctx, filepath.Join(c.Run.Dir, c.Run.Name))
	if err != nil {
		return nil, err
	}
	all, empty, err := demos.Episodes{
		Env: c.Env.Name, Ledger: l, MinReturn: cmd.MinReturn, WithoutTips: cmd.WithoutTips,
	}.Collect(ctx)
	if empty > 0 {
		out.note("%s left out: a reply has no text, so it teaches nothing", counted(empty, "episode"))
	}
	return all[:min(len(all), cmd.Count)], errors.Join(err, l.Close())
}

// ofEnvironment makes demonstrations with the environment's teacher or solver.
func (cmd *demosCmd) ofEnvironment(ctx context.Context, c config.Config, out *console) (
	all []demos.Demonstration, err error) {
	template, err := readPromptTemplate(c)
	if err != nil {
		return nil, err
	}
	family, err := openFamily(ctx, opening{config: c, log: out.logger(cmd.Verbose)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, family.Close()) }()
	render := demos.Renderer{Env: c.Env.Name, Template: template, Keep: rollout.Keep(c.Memory.Keep)}
	if teacher, ok := family.(envs.Teacher); ok {
		all, err := render.Lessons(ctx, teacher, cmd.Seed, cmd.Count)
		return all[:min(len(all), cmd.Count)], err
	}
	if _, ok := family.(envs.Solver); ok {
		return cmd.solutions(ctx, c, family, render, out)
	}
	return nil, fmt.Errorf("%w: environment %s has neither a teacher nor solutions\n"+
		"  hint: write a file of your own (empo2 warmstart --help shows its form), or use --run", errUsage, c.Env.Name)
}

// solutions plays solutions of training tasks, spread evenly over the split.
func (cmd *demosCmd) solutions(ctx context.Context, c config.Config, family envs.Family, render demos.Renderer,
	out *console) ([]demos.Demonstration, error) {
	tasks, err := family.Tasks(envs.Train)
	if err != nil {
		return nil, err
	}
	chosen := orchestrator.Spread(tasks, cmd.Count)
	most := cmd.MaxTurns
	if most < 0 {
		most = c.Rollout.MaxTurns
	}
	phase := watchdog.Phase{Name: watchdog.PhaseDemos, Total: len(chosen), Unit: "tasks", Since: time.Now()}
	out.phase("", phase)
	all, left, err := render.Solutions(ctx, demos.Solutions{Family: family, Tasks: chosen, MaxTurns: most,
		Progress: func(done int) {
			phase.Done = done
			out.phase("", phase)
		}})
	if left.Long > 0 {
		out.note("%d solutions have more than %d turns and are left out (--max-turns)", left.Long, most)
	}
	if left.Unsolved > 0 {
		out.note("%d solutions did not succeed and are left out", left.Unsolved)
	}
	return all, err
}
