package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/telemetry"
)

type compareCmd struct {
	common
	viewFlag
	Arms   []string `help:"Built-in arms to train; see above. Default: grpo,empo2, unless --arm or --base is given."`
	Arm    []string `sep:"none" placeholder:"NAME=KEY=VALUE,…" help:"An arm of your own. Repeatable."`
	Base   []string `sep:"none" placeholder:"NAME=FILE" help:"A configuration over -c. Each arm has each. Repeatable."`
	Seeds  []int64  `help:"Seeds. Each arm is trained once with each. Default: run.seed."`
	Houses []int64  `help:"Houses of the vault. The house is also the seed. Default in the vault: 1."`
	Jobs   int      `default:"1" help:"Runs at the same time."`
	Out    string   `type:"path" placeholder:"FOLDER" help:"Output folder. Default: <run.dir>/<run.name>-compare."`
	JSON   bool     `help:"Print JSON lines instead of text."`

	seeds  []int64
	houses bool // seeds are houses of the vault
	// explain names the place of a key in an error about it. Nil: keys come from the command line.
	explain func(error) error
}

// Help is shown by empo2 compare --help.
func (compareCmd) Help() string {
	return `Trains each arm with each seed, and writes a table, pictures and the data. An arm is a
set of keys over the configuration. All arms have the same seeds, and all except grpo-time
the same number of steps, unless an arm sets run.steps. The same command continues.

Built-in arms:
  empo2          as configured
  grpo           without memory
  grpo-time      as grpo, but with the training seconds of empo2
  paper          empo2 with the paper's draw of modes
  no-off-policy  empo2 without off-policy episodes
  no-bonus       empo2 without the intrinsic reward

Arms of your own: --arm NAME=KEY=VALUE,KEY=VALUE. --arm NAME is the configuration as it is.
A value with a comma needs quotes or brackets: 'list=env.scienceworld.tasks=["boil","melt"]'.
--base NAME=FILE puts a file over those of -c, for example another environment or model.
Each arm is then trained over each base. Without an arm, the bases themselves are compared.
A key without effect in an arm is a note. One without effect in all arms is an error.

Examples:
  empo2 compare --profile demo
  empo2 compare --profile demo --houses 11,12,13 --arms grpo,grpo-time,paper,empo2 --jobs 2
  empo2 compare --seeds 1,2,3 --arm base --arm slow=optimizer.learning_rate=1e-5,run.steps=200
  empo2 compare --seeds 1,2 --base short=short.toml --base long=long.toml --arms grpo,empo2`
}

// unlimited is a number of steps for runs with a budget of seconds, which ends
// first.
const unlimited = 1_000_000

func (cmd *compareCmd) Run(ctx context.Context, out *console) error {
	arms, settings, notes, err := cmd.check()
	if err != nil {
		return err
	}
	out.useJSON(cmd.JSON)
	for _, note := range notes {
		out.note("note: %s", note)
	}
	stop, err := cmd.start(ctx, out, cmd.Out)
	if err != nil {
		return err
	}
	defer stop()
	log := out.logger(cmd.Verbose)
	runner := comparer{compareCmd: cmd, console: out, arms: arms, settings: settings, notes: notes}
	first, second := runner.jobs()
	if err := runner.findFinished(ctx, append(first, second...)); err != nil {
		return err
	}
	if err := runner.setUp(ctx, log, func(a arm) bool { return !runner.allFinished(a) }); err != nil {
		return err
	}
	title := append(append([]string{"compare"}, names(arms)...), "with "+job{house: cmd.houses}.kind()+"s",
		strings.Trim(fmt.Sprint(cmd.seeds), "[]"))
	out.note("%s\n%s\n%s", strings.Join(wrapParts("", title), "\n"), strings.Join(describeEnv(settings[0]), "\n"), legend)
	if err := runner.servePrometheus(log); err != nil {
		return err
	}
	err = runner.train(ctx)
	if runner.prometheus != nil {
		err = errors.Join(err, runner.prometheus.Close())
	}
	return err
}

// train trains all jobs and writes the report.
func (r *comparer) train(ctx context.Context) error {
	first, second := r.jobs()
	done, all := 0, len(first)+len(second)
	var mu sync.Mutex
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		r.console.countRuns(done, all)
	}
	count(0)
	for _, jobs := range [][]job{first, second} {
		if err := r.all(ctx, jobs, func() { count(1) }); err != nil {
			return err
		}
	}
	return r.finish(ctx, append(first, second...))
}

func names(arms []arm) (all []string) {
	for _, a := range arms {
		all = append(all, a.shown())
	}
	return all
}

// check finds the arms and checks every configuration before any run.
func (cmd *compareCmd) check() (arms []arm, settings []config.Config, notes []string, err error) {
	if err := cmd.checkFlags(); err != nil {
		return nil, nil, nil, err
	}
	if arms, err = cmd.chosen(); err != nil {
		return nil, nil, nil, err
	}
	base, err := cmd.layered(arm{files: arms[0].files}, unnoted)
	if err != nil {
		return nil, nil, nil, err
	}
	if cmd.Out == "" {
		cmd.Out = filepath.Join(base.Run.Dir, base.Run.Name+"-compare")
	}
	switch {
	case cmd.Houses != nil:
		cmd.seeds, cmd.houses = cmd.Houses, true
	case cmd.Seeds != nil:
		cmd.seeds = cmd.Seeds
	case base.Env.Name == "vault":
		cmd.seeds, cmd.houses = []int64{1}, true
	default:
		cmd.seeds = []int64{int64(base.Run.Seed)}
	}
	settings, notes, err = cmd.settings(arms)
	for i, c := range settings {
		if cmd.houses && c.Env.Name != "vault" {
			return nil, nil, nil, fmt.Errorf("%w: --houses: arm %s trains in the environment %s, which has no houses\n"+
				"  hint: --seeds instead", errUsage, arms[i].name, c.Env.Name)
		}
	}
	return arms, settings, notes, err
}

func (cmd *compareCmd) checkFlags() error {
	switch {
	case cmd.Jobs < 1:
		return fmt.Errorf("%w: --jobs %d is out of range\n  hint: at least 1", errUsage, cmd.Jobs)
	case cmd.Houses != nil && cmd.Seeds != nil:
		return fmt.Errorf("%w: --houses and --seeds exclude each other\n  hint: a house is also the seed", errUsage)
	case cmd.Houses != nil && len(cmd.Houses) == 0:
		return fmt.Errorf("%w: --houses is empty\n  hint: for example --houses 1,2", errUsage)
	case cmd.Seeds != nil && len(cmd.Seeds) == 0:
		return fmt.Errorf("%w: --seeds is empty\n  hint: for example --seeds 1,2", errUsage)
	case cmd.Arms != nil && len(cmd.Arms) == 0:
		return fmt.Errorf("%w: --arms is empty\n  hint: for example --arms grpo,empo2", errUsage)
	}
	for flag, numbers := range map[string][]int64{"--houses": cmd.Houses, "--seeds": cmd.Seeds} {
		for i, n := range numbers {
			if n < 0 || slices.Contains(numbers[:i], n) {
				return fmt.Errorf("%w: %s %d\n  hint: different numbers, 0 or more", errUsage, flag, n)
			}
		}
	}
	return nil
}

// comparer runs the jobs.
type comparer struct {
	*compareCmd
	console  *console
	arms     []arm
	settings []config.Config // of each arm, for the first seed
	notes    []string
	tools    map[string]tools // by the name of an arm
	// prometheus serves the metrics of all jobs; nil: they are not served.
	prometheus *telemetry.Prometheus
	finished   map[string]bool // by the name of a job: nothing is left to do
	quiet      bool            // steps and evaluations are not printed
}

// setUp finds or installs what each arm needs that is trained. Arms that need the same share it.
func (r *comparer) setUp(ctx context.Context, log zerolog.Logger, trained func(arm) bool) error {
	r.tools = map[string]tools{}
	found := map[string]tools{}
	for i, c := range r.settings {
		if !trained(r.arms[i]) {
			continue
		}
		needs := fmt.Sprint(trains(c), config.Values(only(c)))
		t, ok := found[needs]
		if !ok {
			if err := checkFit(c, min(r.Jobs, len(r.seeds)*len(r.arms)), inspect.Probe{}, log); err != nil {
				return err
			}
			var err error
			if t, err = setUp(ctx, c, r.console, log); err != nil {
				return err
			}
			found[needs] = t
		}
		r.tools[r.arms[i].name] = t
	}
	return nil
}

// servePrometheus serves the metrics of all jobs at one address.
func (r *comparer) servePrometheus(log zerolog.Logger) error {
	i := slices.IndexFunc(r.settings, func(c config.Config) bool { return c.Run.Prometheus != "" })
	if i < 0 {
		return nil
	}
	var err error
	if r.prometheus, err = telemetry.ServePrometheus(r.settings[i].Run.Prometheus, log); err != nil {
		return err
	}
	r.console.note("metrics for Prometheus: %s", r.prometheus.URL())
	return nil
}

// only returns the tables of c that decide what its set-up finds and how much memory it needs.
func only(c config.Config) config.Config {
	return config.Config{Model: c.Model, Prompt: c.Prompt, Sampler: c.Sampler, Trainer: c.Trainer,
		Rollout: c.Rollout, Algorithm: c.Algorithm}
}

// all runs the jobs, several at the same time. It calls done after each.
func (r *comparer) all(ctx context.Context, jobs []job, done func()) error {
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
			done()
			return nil
		})
	}
	return group.Wait()
}

// one runs one job.
func (r *comparer) one(ctx context.Context, j job) error {
	c, err := r.budgeted(ctx, j)
	if err != nil {
		return err
	}
	if r.finished[j.name()] {
		return r.tellFinished(ctx, j, c)
	}
	defer r.console.endPhase(j.name())
	t := r.tools[j.arm.name]
	opened, err := openRun(ctx, c, t, r.console.logger(r.Verbose), r.console.phasesOf(j.name()))
	if err != nil {
		return err
	}
	err = opened.checkPins(ctx, t, false)
	if err == nil {
		err = saveConfig(ctx, opened.ledger, c)
	}
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	observers, err := r.observers(ctx, opened, j, c)
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	opened.observe(observers...)
	_, err = opened.train(ctx)
	return errors.Join(err, opened.Close())
}

// observers are told what happens in a job.
func (r *comparer) observers(ctx context.Context, opened *run, j job, c config.Config) (
	[]orchestrator.Observer, error) {
	var out []orchestrator.Observer
	if c.Run.TensorBoard {
		board, err := opened.tensorBoard(ctx, c)
		if err != nil {
			return nil, err
		}
		out = append(out, board)
	}
	if r.prometheus != nil {
		observer := r.prometheus.Run(j.name())
		if err := opened.catchUp(ctx, observer); err != nil {
			return nil, err
		}
		out = append(out, observer)
	}
	if r.JSON {
		return append(out, jsonObserver{out: r.console, label: j.name(), wrap: j.wrap}), nil
	}
	if r.quiet {
		return append(out, progressObserver{r.console, j.name()}), nil
	}
	return append(out, textObserver{out: r.console, label: j.name(), verbose: r.Verbose}), nil
}

// wrap says in the data of an event to which job it belongs.
func (j job) wrap(name string, data any) any {
	out := map[string]any{"arm": j.arm.shown(), "seed": j.seed, name: data}
	if j.house {
		out["house"] = j.seed
	}
	return out
}
