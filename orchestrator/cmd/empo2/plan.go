package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/empo2/empo2/orchestrator"
	"github.com/empo2/empo2/orchestrator/config"
	"github.com/empo2/empo2/orchestrator/forecast"
	"github.com/empo2/empo2/orchestrator/inspect"
	"github.com/empo2/empo2/orchestrator/safetext"
	"github.com/empo2/empo2/orchestrator/watchdog"
	trainerbridge "github.com/empo2/empo2/trainer_bridge"
	"github.com/empo2/empo2/trainer_bridge/pyenv"
)

type planCmd struct {
	common
	NoCalibrate bool    `help:"Start nothing, only compute. The model needs no weights, only its config.json."`
	GPUMemory   float64 `name:"gpu-gb" placeholder:"GB" help:"Predict for such GPUs (with --no-calibrate)."`
	Seconds     float64 `default:"45" help:"Limit of each of the two bursts of episodes that are timed."`
	Check       bool    `help:"Compare the run's last plan with what the run needed."`
	JSON        bool    `help:"Print JSON."`

	Probe inspect.Probe `kong:"-"` // tests replace it
}

// Help is shown by empo2 plan --help.
func (planCmd) Help() string {
	return `Predicts what a run will need: memory of trainer and server, time of a step and of all
steps, and disk; and says whether that fits this machine. Unless --no-calibrate is given,
it starts trainer, server and environment, plays some episodes twice, trains on some of
them and times it all. Times hold for the first steps: a policy that learns plays longer
or shorter episodes. The plan is stored in the run's folder (plan.json), and empo2 run
compares it with what happened. The exit code is 3 if the run does not fit.

Examples:
  empo2 plan                               for ./config.toml
  empo2 plan --no-calibrate --gpu-gb 80 --profile gpu-80gb --set model.path=DIR
  empo2 plan --check                       after empo2 run: what was predicted and what happened`
}

// planFile is the newest plan in the folder of a run.
const planFile = "plan.json"

func (cmd *planCmd) Run(ctx context.Context, out *console) error {
	if !(cmd.Seconds > 0 && cmd.Seconds <= 3600) { // NaN too
		return fmt.Errorf("%w: --seconds %g\n  hint: a number above 0 and at most 3600", errUsage, cmd.Seconds)
	}
	if !(cmd.GPUMemory >= 0 && cmd.GPUMemory <= 1e6) || cmd.GPUMemory > 0 && !cmd.NoCalibrate { // NaN too
		return fmt.Errorf("%w: --gpu-gb %g\n  hint: a size from 0 to 1000000, together with --no-calibrate",
			errUsage, cmd.GPUMemory)
	}
	c, err := cmd.load()
	if err != nil {
		return err
	}
	dir := filepath.Join(c.Run.Dir, c.Run.Name)
	if cmd.Check {
		return cmd.check(ctx, out, dir)
	}
	if err := errors.Join(config.RequireModel(c), checkNames(c)); err != nil {
		return err
	}
	machine := cmd.Probe.Machine()
	if cmd.GPUMemory > 0 {
		gpu := inspect.GPU{Name: "a GPU", Memory: int64(cmd.GPUMemory * gigabyte)}
		machine = inspect.Machine{Cores: machine.Cores, GPUs: slices.Repeat([]inspect.GPU{gpu}, forecast.GPUCount(c))}
	}
	in, err := forecastInput(c, machine)
	if err != nil {
		return err
	}
	if in.Model.Architecture != "" {
		if err := useOf(c).check(in.Model, "model.path"); err != nil {
			return err
		}
	}
	if !cmd.NoCalibrate {
		limit := time.Duration(cmd.Seconds * float64(time.Second))
		if in.Measured, err = calibrate(ctx, c, limit, out, out.logger(cmd.Verbose)); err != nil {
			return err
		}
	}
	f := forecast.Of(in)
	if err := savePlan(dir, f); err != nil {
		return err
	}
	if cmd.JSON {
		out.json("plan", f)
	} else {
		printForecast(out, c, in, f)
	}
	if len(f.Problems) > 0 {
		return &setupError{errors.New("the run does not fit this machine; see above")}
	}
	return nil
}

// check prints the plan of a run beside what the run needed.
func (cmd *planCmd) check(ctx context.Context, out *console, dir string) error {
	if !fileExists(filepath.Join(dir, "run.db")) {
		return &config.Error{Place: dir, Msg: "no such run",
			Hint: "train it with empo2 run, or name another one with --set run.name=…"}
	}
	f, err := readPlan(dir)
	if err != nil {
		return err
	}
	if f == nil {
		return &config.Error{Place: filepath.Join(dir, planFile), Msg: "the run has no plan",
			Hint: "make one with empo2 plan before the run"}
	}
	summary, err := readSummary(ctx, dir)
	if err != nil {
		return err
	}
	compared := f.Check(outcome(summary, dir))
	if cmd.JSON {
		out.json("plan_check", compared)
		return nil
	}
	printCheck(out, compared, len(summary.History))
	return nil
}

// reportPlan compares a run that has ended with its plan, if it has one.
func reportPlan(out *console, s orchestrator.Summary, dir string, asJSON bool) {
	f, err := readPlan(dir)
	switch {
	case err != nil:
		out.note("%v", err) // the run itself is done
	case f == nil:
	case asJSON:
		out.json("plan_check", f.Check(outcome(s, dir)))
	default:
		out.print("\nwhat empo2 plan predicted, and what the run needed:")
		printCheck(out, f.Check(outcome(s, dir)), len(s.History))
	}
}

// forecastInput is everything that a prediction needs, apart from a calibration.
func forecastInput(c config.Config, machine inspect.Machine) (forecast.Input, error) {
	in := forecast.Input{Config: c, Machine: machine, FreeDisk: inspect.FreeDisk(existing(c.Run.Dir))}
	path, err := modelFolderOf(c)
	if err != nil {
		return in, err
	}
	if path != "" {
		if in.Model, err = readShape(path); err != nil {
			return in, modelFault("model.path", err)
		}
	}
	in.Server = predictServer(c, in.Model, in.Machine)
	return in, nil
}

// modelFolderOf is the folder of the model, also of the embedded one; empty: the
// run needs none.
func modelFolderOf(c config.Config) (string, error) {
	if c.Model.Path != config.Embedded {
		return c.Model.Path, nil
	}
	cache, err := pyenv.CacheDir()
	var sources string
	if err == nil {
		sources, err = trainerbridge.ExtractSources(cache)
	}
	if err != nil {
		return "", &setupError{err}
	}
	return trainerbridge.VaultModel(sources), nil
}

// existing is the folder itself, or the nearest one above it that exists.
func existing(dir string) string {
	for dir != "." && dir != "/" && !fileExists(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

// calibrate starts what a run needs in a temporary folder, and measures.
func calibrate(ctx context.Context, c config.Config, limit time.Duration, out *console, log zerolog.Logger) (
	_ *forecast.Calibration, err error) {
	t, err := setUp(ctx, c, out, log)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "empo2-plan-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	c.Run.Dir, c.Run.Name = root, "calibration"
	// Enough episodes to keep the server as busy as the run does.
	enough := (c.Rollout.Concurrency + c.Algorithm.GroupSize - 1) / c.Algorithm.GroupSize
	c.Algorithm.Groups = min(c.Algorithm.Groups, enough)
	out.note("calibration: starting trainer, server and environment")
	defer out.endPhase("")
	r, err := openRun(ctx, c, t, log, func(p watchdog.Phase) { p.Of = 0; out.phase("", p) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out.note("calibration: playing %s twice, up to %.0f s each",
		counted(c.Algorithm.Groups*c.Algorithm.GroupSize, "episode"),
		limit.Seconds())
	r.observe(progressObserver{out: out})
	m, err := r.loop.Calibrate(ctx, limit)
	if err != nil {
		return nil, fmt.Errorf("calibration: %w", err)
	}
	return measured(m, root), nil
}

// measured puts a calibration into the terms of a forecast.
func measured(m orchestrator.Calibration, root string) *forecast.Calibration {
	out := &forecast.Calibration{
		Episodes: m.Episodes, Complete: m.Complete, Turns: m.ExpectedTurns,
		TurnsPerSec: float64(m.Turns) / m.SampleSeconds, EpisodeTokens: m.TrainedTokens, RowTokens: m.SampledTokens,
		LongestRow: m.LongestRow, EpisodeBytes: m.EpisodeBytes,
		TrainTokensPerSec: m.Usage.TokensPerSecond, OptimSeconds: m.Optim, ExportSeconds: m.Export,
		PublishSeconds: m.Publish, TrainerPeak: m.Usage.PeakMemory, TrainedRow: m.TrainedRow,
		ServerMemory: m.ServerMemory,
	}
	if m.ScoreSeconds > 0 {
		out.ScoreTokensPerSec = float64(m.ScoreTokens) / m.ScoreSeconds
	}
	if m.AdapterFolder != "" {
		out.AdapterBytes = folderBytes(m.AdapterFolder)
		checkpoints := filepath.Join(root, "calibration", "checkpoints")
		if entries, _ := os.ReadDir(checkpoints); len(entries) > 0 { // in order; none if no step was trained
			out.CheckpointBytes = folderBytes(filepath.Join(checkpoints, entries[len(entries)-1].Name()))
		}
	}
	return out
}

// folderBytes is the size of all files in a folder. Files that vanish meanwhile
// do not count.
func folderBytes(dir string) int64 {
	total := int64(0)
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// savePlan writes a plan into the folder of its run.
func savePlan(dir string, f forecast.Forecast) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(dir, planFile)
	if err = os.MkdirAll(dir, 0o755); err == nil {
		err = os.WriteFile(path+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("store the plan: %w\n  hint: choose a writable folder with run.dir", err)
	}
	return nil
}

// readPlan returns the plan of a run, or nil if it has none.
func readPlan(dir string) (*forecast.Forecast, error) {
	text, err := os.ReadFile(filepath.Join(dir, planFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var f forecast.Forecast
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		return nil, fmt.Errorf("read the plan in %s: %w\n  hint: make a new one with empo2 plan",
			filepath.Join(dir, planFile), safetext.JSONError(err))
	}
	return &f, nil
}

// outcome is what a run needed.
func outcome(s orchestrator.Summary, dir string) forecast.Outcome {
	o := forecast.Outcome{Steps: len(s.History), Disk: folderBytes(dir)}
	groups, flat, n := 0, 0, float64(max(1, len(s.History)))
	for _, m := range s.History {
		o.Sample += m.Seconds.Sample / n
		o.Train += m.Seconds.Train / n
		o.Publish += m.Seconds.Publish / n
		o.Step += m.Seconds.Total / n
		o.Tokens += float64(m.Trainer.RowTokens) / n
		groups, flat = groups+m.Groups, flat+m.NoGradient
		o.TrainerMemory = max(o.TrainerMemory, m.Trainer.PeakMemory)
		o.ServerMemory = max(o.ServerMemory, m.ServerMemory)
	}
	if groups > 0 {
		o.Gradient = 1 - float64(flat)/float64(groups)
	}
	return o
}
