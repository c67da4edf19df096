package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/watchdog"
	"github.com/empo2/empo2/sampler"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

type doctorCmd struct {
	common
	Install bool `help:"Install what is missing."`
	Python  bool `help:"Print only the path of the trainer's Python. Install it if it is missing."`
}

// Help is shown by empo2 doctor --help.
func (doctorCmd) Help() string {
	return `Checks the configuration, Python and the model. Starts the trainer and the inference
server, and compares their log-probs. The exit code is 3 if a run would fail.
Nothing is installed without --install.

Examples:
  empo2 doctor                             for ./config.toml
  empo2 doctor -c my.toml
  empo2 doctor --profile demo --install`
}

func (cmd *doctorCmd) Run(ctx context.Context, out *console) error {
	c, err := cmd.load()
	if err != nil {
		return err
	}
	if cmd.Python {
		c.Model.Path = cmp.Or(c.Model.Path, config.Embedded) // Python is the same for every model
		t, err := setUp(ctx, c, out, out.logger(cmd.Verbose))
		if err == nil {
			out.print("%s", t.python)
		}
		return err
	}
	d := &doctor{console: out, ctx: ctx, config: c, install: cmd.Install}
	for _, check := range []func() error{d.machine, d.named, d.fit, d.python, d.setUp, d.processes} {
		if err := check(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			out.print("✗ %v", err)
			return &setupError{errors.New("a run would fail; see above")}
		}
	}
	out.print("no problems found; next: empo2 try shows replies, empo2 run trains, with the same flags")
	return nil
}

// doctor makes the checks in the order in which a run needs them.
type doctor struct {
	*console
	ctx     context.Context
	config  config.Config
	install bool
	cache   string
	tools   tools
}

func (d *doctor) ok(format string, args ...any) { d.print("✓ "+format, args...) }

func (d *doctor) machine() (err error) {
	c := d.config
	if d.cache, err = pyenv.CacheDir(); err != nil && needsPython(c) {
		return err
	}
	d.ok("configuration is valid: %s on %s, backend %s", c.Algorithm.Name, c.Env.Name, c.Sampler.Backend)
	d.ok("%s/%s, %d cores; cache %s; runs %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		cmp.Or(d.cache, "unknown"), filepath.Join(c.Run.Dir, c.Run.Name))
	if !needsPython(c) {
		return nil
	}
	if err := os.MkdirAll(d.cache, 0o755); err != nil {
		return fmt.Errorf("cache: %w\n  hint: EMPO2_CACHE names another folder", err)
	}
	return nil
}

// named checks that the configuration names a model, before what depends on it.
func (d *doctor) named() error {
	if d.config.Model.Path != "" {
		return nil // setUp reports what is wrong with it, after the memory
	}
	return checkModels(d.config)
}

// fit predicts the memory of the run and compares it with the machine's.
func (d *doctor) fit() error {
	in, err := forecastInput(d.config, inspect.Probe{}.Machine())
	if err != nil {
		return nil // setUp reports what is wrong with the model
	}
	f := forecast.Of(in)
	if err := refuseProblems(f, d.config.Run.MustFit, d.logger(false)); err != nil {
		return err
	}
	if len(f.Problems) == 0 && f.Needed > 0 {
		d.ok("memory: the run needs about %s%s", size(f.Needed), of(f.FreeMemory, " free"))
	}
	return nil
}

func (d *doctor) python() error {
	if d.install || !needsPython(d.config) {
		return nil // setUp does it
	}
	found := pyenv.Find(d.ctx, pyenv.Options{Requirements: trainerbridge.Requirements(), CacheDir: d.cache})
	if found.Problem != nil || !fileExists(found.Dir) { // else they do not matter
		for _, i := range found.Interpreters {
			d.print("  found %v", i)
		}
	}
	if found.Problem != nil {
		return found.Problem
	}
	if found.Ready != "" {
		d.ok("Python %s, named by EMPO2_PYTHON", found.Ready)
	} else {
		d.ok("Python environment %s", found.Dir)
	}
	return nil
}

// setUp finds or installs what a run needs.
func (d *doctor) setUp() error {
	t, err := setUp(d.ctx, d.config, d.console, d.logger(false))
	if err != nil {
		return err
	}
	d.tools = t
	if t.model != "" {
		d.ok("model %s", t.model)
	}
	return nil
}

// processes starts the server and the trainer, compares their log-probs, and
// stops them.
func (d *doctor) processes() error {
	root, err := os.MkdirTemp("", "empo2-doctor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	c := d.config
	c.Run.Dir, c.Run.Name = root, "doctor"
	start := time.Now()
	defer d.endPhase("")
	r, err := openRun(d.ctx, c, d.tools, d.logger(false), d.phasesOf(""))
	if err != nil {
		var at *serverError
		if errors.As(err, &at) {
			d.launchLine()
		}
		return err
	}
	defer r.Close()
	can, err := r.loop.Backend.Capabilities(d.ctx)
	if err != nil {
		return err
	}
	d.ok("%s %s: %s", can.Server, can.Version, describe(can))
	if t := r.loop.Driver.ChatTemplate; t != nil {
		d.ok("chat template %s, verified; %s", t.Name(), cmp.Or(t.Unstable(), "a conversation is one row"))
	} else {
		d.ok("the server renders conversations itself")
	}
	if r.loop.Trainer == nil {
		d.ok("nothing is trained: only the memory changes")
		return nil
	}
	d.phase("", watchdog.Phase{
		Name: watchdog.PhasePublishing, Detail: "the base model, with its log-probs", Since: time.Now()})
	if _, err := r.loop.Backend.Publish(d.ctx, sampler.Adapter{Score: r.loop.Score}); err != nil {
		return err
	}
	d.elsewhere(r)
	d.ok("trainer and server agree on log-probs: largest difference %.2g (allowed %.2g); both started in %.1fs",
		r.loop.Canary(), c.Sampler.CanaryTolerance, time.Since(start).Seconds())
	if can.Rounding != "" {
		d.ok("%s; the difference is measured in each step and corrected above loss.mismatch_tolerance", can.Rounding)
	}
	return nil
}

// elsewhere describes a trainer at trainer.url.
func (d *doctor) elsewhere(r *run) {
	if remote, ok := r.loop.Trainer.(*trainerbridge.Remote); ok {
		for _, line := range remote.Describe() {
			d.ok("%s", line)
		}
	}
}

// describe lists the capabilities of a server in one line.
func describe(c sampler.Capabilities) string {
	yes := func(can bool) string {
		if can {
			return "yes"
		}
		return "no"
	}
	out := fmt.Sprintf("token ids in prompts: %s, in answers: %s, log-probs: %s, %s",
		yes(c.IDsIn), yes(c.IDsOut), cmp.Or(c.LogprobSpace, "no"), adapterLoading(c.Adapters))
	if c.AdapterFormat != "" {
		out += " (" + c.AdapterFormat + ")"
	}
	for _, known := range []struct {
		what string
		n    int
	}{
		{"rank up to", c.MaxRank}, {"versions", c.MaxResident}, {"concurrency", c.Parallel},
		{"context", c.ContextLength}, {"replicas", c.Replicas},
	} {
		if known.n > 0 {
			out += fmt.Sprintf(", %s %d", known.what, known.n)
		}
	}
	return out
}

// adapterLoading says how a server loads a new adapter, see
// [sampler.Capabilities].
func adapterLoading(how string) string {
	switch how {
	case "process":
		return "a process for each adapter"
	case "runtime":
		return "adapters loaded at run time"
	case "create":
		return "a model for each adapter"
	}
	return "no adapters"
}

// launchLine prints the command that starts a suitable server of this kind.
func (d *doctor) launchLine() {
	launch := backends[d.config.Sampler.Backend].launch
	if launch == nil {
		return
	}
	model := cmp.Or(d.tools.model, "MODEL")
	command := strings.ReplaceAll(launch(d.config, model), "\n", "\n  ")
	d.print("  start a server that meets the requirements with\n  %s", command)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
