package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/envs"
	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/report"
)

type compareCmd struct {
	common
	Houses []int64  `default:"1" help:"Houses of the vault. The house is also the seed."`
	Arms   []string `default:"grpo,empo2" help:"Arms to train; see above."`
	Jobs   int      `default:"1" help:"Runs at the same time."`
	Out    string   `type:"path" placeholder:"FOLDER" help:"Output folder. Default: <run.dir>/<run.name>-compare."`
	JSON   bool     `help:"Print JSON lines instead of text."`
}

// Help is shown by empo2 compare --help.
func (compareCmd) Help() string {
	return `Trains each arm in each house of the vault, and writes a table, a picture and the
data. All arms have the same houses and seeds, and all except grpo-time the same number
of episodes. The same command continues.

Arms:
  empo2          as configured
  grpo           without memory
  grpo-time      as grpo, but with the training seconds of empo2
  paper          empo2 with the paper's draw of modes
  no-off-policy  empo2 without off-policy episodes
  no-bonus       empo2 without the intrinsic reward

Examples:
  empo2 compare --profile demo
  empo2 compare --profile demo --houses 11,12,13 --arms grpo,grpo-time,paper,empo2 --jobs 2`
}

// arm is one setting that is compared.
type arm struct {
	name string
	// sets are the keys that differ from the configuration.
	sets []string
	// after names an arm. The training seconds of that arm are the budget of
	// this one. Empty: the budget is a number of episodes.
	after string
}

var arms = []arm{
	{name: "empo2", sets: []string{"algorithm.name=empo2"}},
	{name: "grpo", sets: []string{"algorithm.name=grpo"}},
	{name: "grpo-time", sets: []string{"algorithm.name=grpo"}, after: "empo2"},
	{name: "paper", sets: []string{"algorithm.name=empo2", "algorithm.mode_draw=step", "algorithm.baseline=group",
		"algorithm.memory_probability=0.25"}},
	{name: "no-off-policy", sets: []string{"algorithm.name=empo2", "algorithm.off_policy_probability=0.0"}},
	{name: "no-bonus", sets: []string{"algorithm.name=empo2", "novelty.weight=0.0"}},
}

// unlimited is a number of steps for runs with a budget of seconds, which ends
// first.
const unlimited = 1_000_000

func (cmd *compareCmd) Run(ctx context.Context, out *console) error {
	chosen, c, err := cmd.check()
	if err != nil {
		return err
	}
	out.useJSON(cmd.JSON)
	log := out.logger(cmd.Verbose)
	if err := checkFit(c, min(cmd.Jobs, len(cmd.Houses)*len(chosen)), inspect.Probe{}, log); err != nil {
		return err
	}
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return err
	}
	out.note("compare %s in houses %v: %s\n%s", strings.Join(cmd.Arms, ", "), cmd.Houses, describeEnv(c), legend)
	runner := comparer{compareCmd: cmd, tools: t, console: out}
	var first, second []job
	for _, house := range cmd.Houses {
		for _, a := range chosen {
			if j := (job{a, house}); a.after == "" {
				first = append(first, j)
			} else {
				second = append(second, j)
			}
		}
	}
	for _, jobs := range [][]job{first, second} {
		if err := runner.all(ctx, jobs); err != nil {
			return err
		}
	}
	return runner.finish(ctx, append(first, second...), c)
}

// check finds the arms and checks every configuration before any run.
func (cmd *compareCmd) check() ([]arm, config.Config, error) {
	c, err := cmd.load()
	if err != nil {
		return nil, c, err
	}
	if err := cmd.checkFlags(c); err != nil {
		return nil, c, err
	}
	if cmd.Out == "" {
		cmd.Out = filepath.Join(c.Run.Dir, c.Run.Name+"-compare")
	}
	var chosen []arm
	for _, name := range cmd.Arms {
		a, err := cmd.arm(name)
		if err != nil {
			return nil, c, err
		}
		if _, err := cmd.config(job{a, cmd.Houses[0]}, 0); err != nil {
			return nil, c, err
		}
		chosen = append(chosen, a)
	}
	return chosen, c, nil
}

func (cmd *compareCmd) checkFlags(c config.Config) error {
	switch {
	case cmd.Jobs < 1:
		return fmt.Errorf("%w: --jobs %d\n  hint: at least 1", errUsage, cmd.Jobs)
	case len(cmd.Houses) == 0:
		return fmt.Errorf("%w: --houses is empty\n  hint: for example --houses 1,2", errUsage)
	case len(cmd.Arms) == 0:
		return fmt.Errorf("%w: --arms is empty\n  hint: for example --arms grpo,empo2", errUsage)
	}
	if c.Env.Name != "vault" {
		return fmt.Errorf("%w: compare trains in houses of the vault, but env.name is %q\n"+
			"  hint: --set env.name=vault", errUsage, c.Env.Name)
	}
	for i, name := range cmd.Arms {
		if slices.Contains(cmd.Arms[:i], name) {
			return fmt.Errorf("%w: --arms has %s twice\n  hint: different arms", errUsage, name)
		}
	}
	for i, house := range cmd.Houses {
		if house < 0 || slices.Contains(cmd.Houses[:i], house) {
			return fmt.Errorf("%w: --houses %d\n  hint: different numbers, 0 or more", errUsage, house)
		}
	}
	return nil
}

// arm returns the arm that --arms names.
func (cmd *compareCmd) arm(name string) (arm, error) {
	var names []string
	for _, a := range arms {
		names = append(names, a.name)
	}
	i := slices.Index(names, name)
	if i < 0 {
		return arm{}, fmt.Errorf("%w: --arms: unknown arm %q\n  hint: one of %s", errUsage, name, strings.Join(names, ", "))
	}
	if after := arms[i].after; after != "" && !slices.Contains(cmd.Arms, after) {
		return arm{}, fmt.Errorf("%w: arm %s takes its budget from %s\n  hint: add %s to --arms",
			errUsage, name, after, after)
	}
	return arms[i], nil
}

// job is one arm in one house.
type job struct {
	arm   arm
	house int64
}

func (j job) label() string { return fmt.Sprintf("house %d", j.house) }
func (j job) name() string  { return fmt.Sprintf("%s-house%d", j.arm.name, j.house) }

// config returns the job's configuration. seconds is its budget of time; 0: its
// budget is a number of episodes.
func (cmd *compareCmd) config(j job, seconds float64) (config.Config, error) {
	sets := append([]string{
		"run.name=" + j.name(), fmt.Sprintf("run.dir=%q", cmd.Out),
		fmt.Sprintf("run.seed=%d", j.house), fmt.Sprintf("env.vault.houses=[%d]", j.house),
	}, j.arm.sets...)
	if seconds > 0 {
		sets = append(sets, fmt.Sprintf("run.steps=%d", unlimited), fmt.Sprintf("run.max_seconds=%g", seconds))
	}
	base, err := cmd.load()
	if err != nil {
		return base, err
	}
	return config.With(base, sets)
}

// comparer runs the jobs.
type comparer struct {
	*compareCmd
	tools   tools
	console *console
}

// all runs the jobs, several at the same time.
func (r *comparer) all(ctx context.Context, jobs []job) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.Jobs)
	for _, j := range jobs {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := r.one(ctx, j); err != nil {
				return fmt.Errorf("%s: %w", j.name(), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// one runs one job.
func (r *comparer) one(ctx context.Context, j job) error {
	budget := 0.0
	if j.arm.after != "" {
		other, err := r.summary(ctx, job{arm{name: j.arm.after}, j.house})
		if err != nil {
			return err
		}
		budget = other.Seconds
	}
	c, err := r.config(j, budget)
	if err != nil {
		return err
	}
	r.console.phase(j.name(), startPhase(c))
	defer r.console.endPhase(j.name())
	opened, err := openRun(ctx, c, r.tools, r.console.logger(r.Verbose))
	if err != nil {
		return err
	}
	err = opened.checkPins(ctx, r.tools, false)
	if err == nil {
		err = saveConfig(ctx, opened.ledger, c)
	}
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	if r.JSON {
		opened.observe(jsonObserver{out: r.console, label: j.name(), wrap: func(name string, data any) any {
			return map[string]any{"arm": j.arm.name, "house": j.house, name: data}
		}})
	} else {
		opened.observe(textObserver{out: r.console, label: j.name(), verbose: r.Verbose})
	}
	_, err = opened.train(ctx)
	return errors.Join(err, opened.Close())
}

// summary reads a finished job from its ledger.
func (r *comparer) summary(ctx context.Context, j job) (orchestrator.Summary, error) {
	c, err := r.config(j, 0)
	if err != nil {
		return orchestrator.Summary{}, err
	}
	return readSummary(ctx, filepath.Join(c.Run.Dir, c.Run.Name))
}

// finish writes compare.json, compare.html, compare.svg and compare.txt and
// prints the table.
func (r *comparer) finish(ctx context.Context, jobs []job, c config.Config) error {
	v := c.Env.Vault
	out := report.Comparison{
		Title: fmt.Sprintf("vault, %d doors × %d levers: %s", v.Doors, v.Levers, strings.Join(r.Arms, " · ")),
		Note: fmt.Sprintf("%s An episode with random actions succeeds with probability %s. "+
			"Evaluated without tips at temperature %g on the %d training tasks of each house; houses %v, one seed each.",
			describeModel(c), odds(v.Levers, v.Doors), c.Eval.Temperature, v.TrainVariations, r.Houses),
		Arms: r.Arms,
	}
	for _, j := range jobs {
		s, err := r.summary(ctx, j)
		if err != nil {
			return err
		}
		out.Curves = append(out.Curves, curve(j, s))
	}
	files := map[string]func(io.Writer) error{
		"compare.html": out.HTML,
		"compare.svg":  out.SVG,
		"compare.txt":  out.Table,
		"compare.json": func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", " ")
			return e.Encode(out)
		},
	}
	for name, write := range files {
		if err := writeFile(filepath.Join(r.Out, name), write); err != nil {
			return err
		}
	}
	if r.JSON {
		r.console.json("comparison", out)
		return nil
	}
	var table strings.Builder
	if err := out.Table(&table); err != nil {
		return err
	}
	r.console.print("\n%s\npicture: %s\ndata:    %s", table.String(),
		filepath.Join(r.Out, "compare.html"), filepath.Join(r.Out, "compare.json"))
	return nil
}

// describeModel names the trained model in the report.
func describeModel(c config.Config) string {
	if c.Model.Path == config.Embedded {
		return "A demonstration with a tiny policy. It shows nothing about large language models."
	}
	return fmt.Sprintf("The model is %s.", filepath.Base(c.Model.Path))
}

// curve returns the learning curve of one run for the report.
func curve(j job, s orchestrator.Summary) report.Curve {
	out := report.Curve{Arm: j.arm.name, TimeBudget: j.arm.after != "", Label: j.label(), Steps: s.Steps}
	for _, m := range s.History {
		out.Hits += int(float64(m.Free.N)*m.Free.Success + 0.5)
		out.Tips += m.NewTips
	}
	for _, e := range s.Evaluations {
		if e.Kind == string(envs.Test) {
			test := 100 * e.Success
			out.Test = &test
			continue
		}
		out.Points = append(out.Points, report.Point{
			Episodes: e.TrainEpisodes, Seconds: e.TrainSeconds, Success: 100 * e.Success})
	}
	return out
}

// writeFile replaces a file atomically.
func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing to remove
	if err := errors.Join(f.Chmod(0o644), write(f), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}
